"""Write the figures of each ``results.json`` into the pages that have them, and six of them into README.

Run it as ``python -m benchmarks.report``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent
README = _FOLDER.parent / "README.md"
PERFORMANCE = _FOLDER.parent / "docs" / "explanation" / "performance.md"
KUBERNETES = _FOLDER.parent / "docs" / "howto" / "kubernetes.md"
PAGES = (README, PERFORMANCE, KUBERNETES)
Results = Mapping[str, Sequence[Mapping[str, Any]]]

# README's six: what each says, the file of results that has it, and its name there.
_SUMMARY = (
    (
        "Time of `transition_to()` / of the same guarded UPDATE by the driver, PostgreSQL, `synchronous_commit` on",
        "transitions",
        ("PostgreSQL, synchronous_commit on", "transition_to()", "raw guarded UPDATE"),
    ),
    (
        "Time of a django-fsm-2 transition with `save()`, without a journal / of `transition_to()`, PostgreSQL",
        "transitions",
        ("PostgreSQL, synchronous_commit on", "django-fsm-2, save()", "transition_to()"),
    ),
    (
        "Jobs per second of one worker with 100 slots / of a hand-written queue without history",
        "queue",
        "drain, workers=1: ours, 100 slots / floor, 100 at a time",
    ),
    (
        "Median time from enqueue to the start of a local process, less fork and exec",
        "queue",
        "pickup: added by the queue, p50",
    ),
    (
        "Local processes per second of one worker with 4 slots, SQLite / of a bare pool of four subprocesses",
        "process",
        "drain, SQLite: a worker with 4 slots / a bare pool of 4 subprocesses",
    ),
    ("Time from claim to started container / by the raw Docker API", "docker", "launch: ours / raw API"),
)


def main() -> None:
    results = read_results()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def read_results() -> Results:
    """Return the figures measured last, by benchmark."""
    paths = {
        "transitions": _FOLDER / "results.json",
        "queue": _FOLDER / "queue" / "results.json",
        "process": _FOLDER / "process" / "results.json",
        "docker": _FOLDER / "docker" / "results.json",
        "kubernetes": _FOLDER / "kubernetes" / "results.json",
        "pages": _FOLDER / "pages" / "results.json",
        "tasks": _FOLDER / "tasks" / "results.json",
    }
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def filled(text: str, results: Results) -> str:
    """Return a page with the figures between its markers."""
    for block, lines in (
        ("summary of figures", _summary(results)),
        ("figures", _transitions(results["transitions"])),
        ("queue figures", _targeted(results["queue"])),
        ("process figures", _targeted(results["process"])),
        ("docker figures", _targeted(results["docker"])),
        ("kubernetes figures", _targeted(results["kubernetes"])),
        ("all kubernetes figures", _measured(results["kubernetes"])),
        ("pages figures", _pages(results["pages"])),
        ("tasks figures", _tasks(results["tasks"])),
    ):
        text = _replaced(text, block, lines)
    return text


def _summary(results: Results) -> Iterator[str]:
    yield from ("| measured | | target |", "|---|---|---|")
    for label, part, name in _SUMMARY:
        [figure] = [figure for figure in results[part] if _name(figure) == name]
        if part == "transitions":
            value, target = f"{figure['measured']:.2f}", figure["target"]
        else:
            unit = "" if figure["unit"] == "times" else f" {figure['unit']}"
            value, target = f"{figure['value']:.2f}{unit}", _target(figure)
        yield f"| {label} | {value} | {target}{'' if figure['met'] else ', missed'} |"


def _name(figure: Mapping[str, Any]) -> str | tuple[str, str, str]:
    return figure.get("name") or (figure["database"], figure["subject"], figure["baseline"])


def _transitions(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("| database | measured | ratio | target |", "|---|---|---|---|")
    for figure in figures:
        measured, missed = f"{figure['subject']} / {figure['baseline']}", "" if figure["met"] else ", missed"
        yield f"| {figure['database']} | {measured} | {figure['measured']:.2f} | {figure['target']}{missed} |"


def _targeted(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("| measured | | target |", "|---|---|---|")
    # Times and rates depend on the machine: only figures with a target are shown.
    for figure in figures:
        if target := _target(figure):
            missed = "" if figure["met"] else ", missed"
            yield f"| {figure['name']} | {figure['value']:.2f} {figure['unit']} | {target}{missed} |"


def _measured(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """All figures: how many workers a cluster needs follows from rates and requests, too."""
    yield from ("| measured | |", "|---|---|")
    for figure in figures:
        yield f"| {figure['name']} | {figure['value']:.2f} {figure['unit']} |"


def _tasks(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("| measured | | target |", "|---|---|---|")
    for figure in figures:
        # The ratios of those that cannot end a running task have no target.
        target = _target(figure)
        if target or figure["unit"] == "times":
            missed = "" if figure["met"] else ", missed"
            yield f"| {figure['name']} | {figure['value']:.2f} {figure['unit']} | {target}{missed} |"


def _pages(visits: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each page: the most queries on any database, the times on each, and how they grow."""
    if not visits:
        yield "Not measured yet."
        return
    columns = {(visit["database"], visit["jobs"]): None for visit in visits}
    yield (
        "| page | queries |" + "".join(f" {name}, {jobs:,} jobs |" for name, jobs in columns) + " with the most jobs |"
    )
    yield "|---|---|" + "---|" * (len(columns) + 1)
    for page in dict.fromkeys(visit["page"] for visit in visits):
        found = {(visit["database"], visit["jobs"]): visit for visit in visits if visit["page"] == page}
        cells = [_marked(f"{max(visit['queries'] for visit in found.values())}", "queries", found.values())]
        for column in columns:
            visit = found.get(column)
            cells.append(_marked(f"{visit['p95_seconds'] * 1e3:.0f} ms", "seconds", [visit]) if visit else "")
        grown = [visit for visit in found.values() if visit["ratio"] is not None]
        cells.append(", ".join(_marked(f"{visit['ratio']:.2f} times", "ratio", [visit]) for visit in grown))
        yield f"| {page} | " + " | ".join(cells) + " |"


def _marked(text: str, target: str, visits: Iterable[Mapping[str, Any]]) -> str:
    return f"{text}, missed" if any(target in visit["missed"] for visit in visits) else text


def _target(figure: Mapping[str, Any]) -> str:
    least, most = figure["at_least"], figure["at_most"]
    return f"≥ {least:g}" if least is not None else f"≤ {most:g}" if most is not None else ""


def _replaced(text: str, block: str, lines: Iterator[str]) -> str:
    pattern = re.compile(rf"(<!-- {block}:[^>]*-->\n).*?(<!-- end of {block} -->)", re.DOTALL)
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


if __name__ == "__main__":
    main()
