"""Measure the queue of the tree on PYTHONPATH, without its peers; whatever commit that is, it has these functions."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import django
import psycopg

from benchmarks.queue.server import address, server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.queue.settings"
    with server() as folder:
        os.environ["BENCH_SOCKET"] = folder
        django.setup()
        with psycopg.connect(address(folder), autocommit=True) as connection:
            figures = [
                {"name": name, "value": value, "unit": unit}
                for name, value, unit in _measure(connection, folder, quick=options.quick)
            ]
    options.json.write_text(json.dumps(figures), encoding="utf-8")


def _measure(connection: psycopg.Connection, folder: str, *, quick: bool) -> Iterator[tuple[str, float, str]]:
    # They import models, which is possible only after Django's setup.
    from benchmarks.queue.bulk import measure_bulk
    from benchmarks.queue.claims import measure_claims
    from benchmarks.queue.contenders.ours import CONTENDERS
    from benchmarks.queue.drain import measure_drains
    from benchmarks.queue.pickup import measure_pickup

    for contender in CONTENDERS:
        contender.prepare(folder)
    rates = measure_drains(CONTENDERS, connection, seconds=1.0 if quick else 1.5, rounds=1 if quick else 3)
    for (name, workers), values in rates.items():
        yield f"drain, workers={workers}: {name}", statistics.median(values), "jobs/s"
    yield "bulk enqueue", measure_bulk(connection, count=4000 if quick else 10000, rounds=3)[0], "jobs/s"
    few, many = measure_claims(connection, quick=quick)
    yield "claim of ten among a thousand queued", few * 1e3, "ms"
    yield "claim of ten among many, finished and queued", many * 1e3, "ms"
    yield "pickup: enqueue to command", measure_pickup(20 if quick else 60)[0] * 1e3, "ms"


if __name__ == "__main__":
    main()
