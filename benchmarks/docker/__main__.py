"""Measure the Docker executor: ``python -m benchmarks.docker [--quick] [--json FILE]``.

On a daemon and a PostgreSQL of its own. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import django

from tests.docker import daemon, image
from tests.servers import end_when_told

from ..queue.figures import Figure, table
from ..queue.server import server

_PARTS = ("launch", "stalled", "throughput", "watching")


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.docker", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    arguments.add_argument("--only", choices=_PARTS, help="measure only this")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = arguments.parse_args()
    if obstacle := "" if find_spec("docker") else "the Python package docker is not installed":
        print(f"Docker: not measured, since {obstacle}.")
        return 0
    if obstacle := daemon.obstacle() or image.obstacle():
        print(f"Docker: not measured, since {obstacle}.")
        return 0
    end_when_told()
    with daemon.Daemon() as engine, server() as folder:
        image.import_image(engine.url)
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.docker.settings"
        os.environ["BENCH_SOCKET"], os.environ["BENCH_DOCKER"] = folder, engine.url
        django.setup()
        figures = list(_measure(engine.url, parts=[options.only] if options.only else _PARTS, quick=options.quick))
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _measure(url: str, *, parts: Sequence[str], quick: bool) -> Iterator[Figure]:
    from django.core.management import call_command

    from .launch import measure_launch
    from .raw import RawDocker
    from .stalled import STALLED, measure_stalled_pulls
    from .throughput import measure_throughput
    from .watching import measure_watching

    call_command("migrate", verbosity=0)
    raw = RawDocker(url)
    if "launch" in parts:
        ours, theirs = measure_launch(raw, samples=7 if quick else 25)
        yield Figure(name="launch: claim to container started, p50", value=ours * 1e3, unit="ms")
        yield Figure(name="launch: create and start by the raw API, p50", value=theirs * 1e3, unit="ms")
        yield Figure(name="launch: ours / raw API", value=ours / theirs, unit="times", at_most=1.15)
    if "stalled" in parts:
        alone, beside = measure_stalled_pulls(raw, samples=5 if quick else 9, rounds=1 if quick else 3)
        ratio = statistics.median(one / other for one, other in zip(beside, alone, strict=True))
        name = f"launch of a local image beside {STALLED} stalled pulls"
        yield Figure(name=f"{name}, p50", value=statistics.median(beside) * 1e3, unit="ms")
        yield Figure(name=f"{name} / without", value=ratio, unit="times", at_most=1.2)
    if "throughput" in parts:
        count, rounds = (40, 1) if quick else (100, 3)
        rates, raw_rates = measure_throughput(raw, count=count, rounds=rounds)
        ratio = statistics.median(one / other for one, other in zip(rates, raw_rates, strict=True))
        yield Figure(name=f"{count} containers: ours", value=statistics.median(rates), unit="jobs/s")
        yield Figure(name=f"{count} containers: raw API", value=statistics.median(raw_rates), unit="jobs/s")
        yield Figure(name=f"{count} containers: ours / raw API", value=ratio, unit="times", at_least=0.9)
    if "watching" in parts:
        count, seconds = (100, 10.0) if quick else (300, 20.0)
        share = measure_watching(count, seconds)
        yield Figure(
            name=f"watching {count} containers: CPU of the worker", value=share * 100, unit="% of a core", at_most=5.0
        )


if __name__ == "__main__":
    sys.exit(main())
