"""Show whether each executor works, and its capacity."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

from ..conf import app_settings
from .engine_health import health_of
from .printing import Output, print_json, print_table

_GIBIBYTE = 1024**3
_SHOWN_CHARACTERS = 12
_ADVICE = "Correct its entry in CONTAINER_MANAGER['EXECUTORS'], or what it says it needs.\n"

# An executor and its `Health`. This form, since "class" is a word of Python's.
ListedExecutor = TypedDict(
    "ListedExecutor",
    {
        "alias": str,
        "class": str,
        "ok": bool,
        "message": str,
        "engine": str,
        "cpu_count": int | None,
        "memory_bytes": int | None,
        "warnings": Sequence[str],
    },
)
JSON = list[ListedExecutor]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    settings = app_settings()
    found = {alias: health_of(settings, alias) for alias in sorted(settings.executors)}
    ill = [alias for alias, health in found.items() if not health.ok]
    if options["json"]:
        classes = {alias: settings.executors[alias]["BACKEND"] for alias in found}
        print_json(out, [{"alias": a, "class": classes[a], **asdict(health)} for a, health in found.items()])
        return 1 if ill else 0
    rows = [
        (
            alias,
            "yes" if health.ok else "NO",
            settings.executors[alias]["BACKEND"].rpartition(".")[2],
            health.cpu_count,
            "" if health.memory_bytes is None else f"{health.memory_bytes / _GIBIBYTE:.1f} GiB",
            health.engine[:_SHOWN_CHARACTERS],
            health.message,
        )
        for alias, health in found.items()
    ]
    print_table(out, ("ALIAS", "WELL", "CLASS", "CPUS", "MEMORY", "ENGINE", "SAYS"), rows)
    for alias, health in found.items():
        for warning in health.warnings:
            out.write(f"{alias}: {warning}\n")
    if ill:
        options["err"].write(_ADVICE)
    return 1 if ill else 0
