"""Measure the queue: ``python -m benchmarks.queue [--quick] [--json FILE]``. Exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import django
import psycopg

from .figures import Figure, table
from .server import address, server

_BATCHES, _SINGLE = ("ours, 100 slots", "floor, 100 at a time"), ("ours, 1 slot", "floor, 1 at a time")
_PEERS = ("pgqueuer", "Chancy", "procrastinate", "django-tasks-db")


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = arguments.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.queue.settings"
    with server() as folder:
        os.environ["BENCH_SOCKET"] = folder
        django.setup()
        with psycopg.connect(address(folder), autocommit=True) as connection:
            figures = list(_measure(connection, folder, quick=options.quick))
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _measure(connection: psycopg.Connection, folder: str, *, quick: bool) -> Iterator[Figure]:
    from .bulk import measure_bulk
    from .claims import measure_claims, measure_claims_beside_others
    from .contenders import contenders
    from .drain import WORKERS, measure_drains
    from .idle import measure_idle
    from .pickup import measure_pickup

    taking_part = contenders()
    for contender in taking_part.values():
        contender.prepare(folder)
    rounds, seconds = (1, 1.0) if quick else (3, 1.5)
    rates = measure_drains(taking_part.values(), connection, seconds=seconds, rounds=rounds)
    for workers in WORKERS:
        for name in taking_part:
            yield Figure(
                name=f"drain, workers={workers}: {name}", value=statistics.median(rates[name, workers]), unit="jobs/s"
            )
    for workers in WORKERS:
        for (name, floor), least in ((_BATCHES, 0.4), (_SINGLE, 0.7)):
            ratio = _ratio(rates[name, workers], rates[floor, workers])
            yield Figure(name=f"drain, workers={workers}: {name} / {floor}", value=ratio, unit="times", at_least=least)
        for peer in _PEERS:
            ratio = _ratio(rates[_BATCHES[0], workers], rates[peer, workers])
            yield Figure(
                name=f"drain, workers={workers}: {_BATCHES[0]} / {peer}", value=ratio, unit="times", at_least=1.0
            )
    ours, floor_rate = measure_bulk(connection, count=4000 if quick else 10000, rounds=3)
    yield Figure(name="bulk enqueue: ours", value=ours, unit="jobs/s")
    yield Figure(name="bulk enqueue: hand-written INSERT", value=floor_rate, unit="jobs/s")
    yield Figure(name="bulk enqueue: INSERT / ours", value=floor_rate / ours, unit="times", at_most=2.0)
    few, many = measure_claims(connection, quick=quick)
    yield Figure(name="claim of ten among a thousand queued", value=few * 1e3, unit="ms")
    yield Figure(name="claim of ten among many, finished and queued", value=many * 1e3, unit="ms")
    yield Figure(name="claim: among many / among a thousand", value=many / few, unit="times", at_most=1.5)
    alone, beside = measure_claims_beside_others(connection, quick=quick)
    yield Figure(name="claim of ten, beside many that it may not take", value=beside * 1e3, unit="ms")
    yield Figure(
        name="claim: beside many that it may not take / alone", value=beside / alone, unit="times", at_most=1.5
    )
    queued, plain = measure_pickup(20 if quick else 60)
    yield Figure(name="pickup: enqueue to command, p50", value=queued * 1e3, unit="ms")
    yield Figure(name="pickup: fork and exec, p50", value=plain * 1e3, unit="ms")
    yield Figure(name="pickup: added by the queue, p50", value=(queued - plain) * 1e3, unit="ms", at_most=5.0)
    yield Figure(name="idle worker", value=measure_idle(8 if quick else 20) * 100, unit="% core", at_most=1.0)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
