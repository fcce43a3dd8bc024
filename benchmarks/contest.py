"""Measure one database, in this process: ``python -m benchmarks.contest`` prints its figures as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import django
from django.core.management import call_command
from django.db import connection

from .figures import Figure, Target
from .measure import interleave

if TYPE_CHECKING:
    from .driver import Driver

ROUNDS, BATCH = 40, 50
BULK_ROUNDS, BULK_ROWS = 9, 10_000

_FASTER = Target(limit=1, least=True)


def main() -> None:
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    # It imports models, which is possible only now.
    from .driver import Driver

    driver = Driver()
    if connection.vendor == "sqlite":
        found = contest("SQLite", driver, limit=2.5, lead=Target(limit=3, least=True))
    else:
        call_command("pgtrigger", "install")
        found = []
        for value, limit in {"off": 2.6, "on": 1.6}.items():
            driver.set_synchronous_commit(value)
            found += contest(f"PostgreSQL, synchronous_commit {value}", driver, limit=limit, lead=_FASTER)
    json.dump([asdict(figure) for figure in found], sys.stdout)


def contest(database: str, driver: Driver, *, limit: float, lead: Target) -> list[Figure]:
    """Measure all; ``limit`` is what a transition may cost, ``lead`` how much more the peers' must."""
    from . import contenders as c
    from .peers.models import WAYS

    rows = (ROUNDS + 1) * BATCH
    seconds = interleave(c.transitions(driver, rows=rows), rounds=ROUNDS, batch=BATCH)
    figures = [Figure.of(database, seconds, c.OURS, c.RAW, Target(limit=limit))]
    for way in WAYS:
        figures.append(Figure.of(database, seconds, way.name, c.OURS, _FASTER if way.tuned else lead))
    seconds = interleave(c.saves(rows=rows), rounds=ROUNDS, batch=BATCH)
    figures.append(Figure.of(database, seconds, c.SAVE, c.PEER_SAVE, Target(limit=1)))
    seconds = interleave(c.bulk(driver, rows=BULK_ROWS), rounds=BULK_ROUNDS, batch=1)
    figures.append(Figure.of(database, seconds, c.BULK, c.RAW_BULK, Target(limit=2)))
    return figures


if __name__ == "__main__":
    main()
