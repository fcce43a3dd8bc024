"""Measure one database, in this process: ``python -m benchmarks.contest`` prints its figures as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import django
from django.core.management import call_command
from django.db import connection

from .figures import Figure, Target
from .measure import Clock, interleave

# Short turns: what disturbs the machine then disturbs neighbours alike.
ROUNDS, BATCH = 100, 20
BULK_ROUNDS, BULK_ROWS = 7, 10_000

_FASTER = Target(limit=1, least=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run the database: ``limit`` is what a transition may cost, ``lead`` how much more the peers' must."""

    name: str
    limit: float
    lead: Target
    clock: Clock
    synchronous_commit: str | None = None


# All of SQLite's work is done in this process, so its processor time tells more than a clock that sees the neighbours.
_SQLITE = Setting(name="SQLite", limit=2.5, lead=Target(limit=3, least=True), clock=time.process_time)
_SETTINGS: dict[str, Sequence[Setting]] = {
    "sqlite": [_SQLITE],
    "postgresql": [
        Setting(
            name=f"PostgreSQL, synchronous_commit {value}",
            limit=limit,
            lead=_FASTER,
            clock=time.perf_counter,
            synchronous_commit=value,
        )
        for value, limit in {"off": 2.6, "on": 1.6}.items()
    ],
}


def main() -> None:
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    if connection.vendor == "postgresql":
        import pgtrigger

        pgtrigger.install()
    json.dump([asdict(figure) for figure in contests()], sys.stdout)


def contests() -> list[Figure]:
    """Measure every setting of this process's database."""
    # They import models, which is possible only after Django's setup.
    from container_manager.models import JobStatus

    from .contenders import WAYS_PER_MODEL
    from .driver import Driver
    from .rows import Template

    rows = (ROUNDS + 1) * BATCH
    queued = Template(JobStatus.QUEUED, WAYS_PER_MODEL * rows)
    pending = Template(JobStatus.PENDING, BULK_ROWS)
    driver = Driver()
    found: list[Figure] = []
    for setting in _SETTINGS[connection.vendor]:
        if setting.synchronous_commit:
            driver.set_synchronous_commit(setting.synchronous_commit)
        found += contest(setting, driver, queued=queued, pending=pending, rows=rows)
    return found


def contest(setting: Setting, driver: Any, *, queued: Any, pending: Any, rows: int) -> list[Figure]:
    """Measure a setting: each group of figures comes from one interleaved run."""
    from . import contenders as c
    from .peers.models import WAYS

    figure = partial(Figure.of, setting.name)
    one_by_one = partial(interleave, rounds=ROUNDS, batch=BATCH, clock=setting.clock)
    seconds = one_by_one(c.transitions(driver, queued, rows=rows))
    figures = [figure(seconds, c.OURS, c.RAW, Target(limit=setting.limit))]
    figures += [figure(seconds, way.name, c.OURS, _FASTER if way.tuned else setting.lead) for way in WAYS]
    seconds = one_by_one(c.saves(queued, rows=rows))
    figures.append(figure(seconds, c.SAVE, c.PEER_SAVE, Target(limit=1)))
    seconds = interleave(c.bulk(driver, pending, rows=BULK_ROWS), rounds=BULK_ROUNDS, batch=1, clock=setting.clock)
    figures.append(figure(seconds, c.BULK, c.RAW_BULK, Target(limit=2)))
    return figures


if __name__ == "__main__":
    main()
