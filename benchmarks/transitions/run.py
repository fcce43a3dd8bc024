"""Measure on the one database that BENCH_DATABASE names; print the figures as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import django
from django.db import connection, models
from django.utils import timezone

from ..measure import Figure, Prepare, in_turns

_ROUNDS, _CALLS = 30, 60
_BULK_ROWS, _BULK_ROUNDS = 10_000, 7
_FASTER_THAN_PEERS_ON_SQLITE = 3.0


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.transitions.settings"
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0, run_syncdb=True)
    figures: list[Figure] = []
    if connection.vendor == "postgresql":
        from .peers.models import PEERS

        call_command("pgtrigger", "install", verbosity=0) if "pgtrigger" in PEERS else None
        for setting, limit in (("off", 2.6), ("on", 1.6)):
            with connection.cursor() as cursor:
                cursor.execute(f"SET synchronous_commit = {setting}")
            figures += one_row(f"PostgreSQL, synchronous_commit {setting}", limit, faster_than_peers=1.0)
        figures += bulk("PostgreSQL")
    else:
        figures += one_row("SQLite", 2.5, faster_than_peers=_FASTER_THAN_PEERS_ON_SQLITE)
        figures += bulk("SQLite")
    json.dump([asdict(figure) for figure in figures], sys.stdout)


def one_row(where: str, limit: float, *, faster_than_peers: float) -> list[Figure]:
    """Compare one transition with the raw driver's UPDATE, and save() and transition with the peers'."""
    from container_manager.models import ContainerJob

    from .peers.models import PEERS

    contenders: dict[str, Prepare] = {
        "raw": raw_updates,
        "ours": partial(_loaded, ContainerJob, _transition),
        "our save()": partial(_loaded, ContainerJob, _save),
        "django-fsm-2's save()": partial(_loaded, PEERS["django-fsm-2"], _queue_and_save),
    }
    contenders |= {name: partial(_loaded, model, _peer_call(name)) for name, model in PEERS.items()}
    taken = in_turns(contenders, rounds=_ROUNDS, calls=_CALLS)
    ours = taken["ours"]
    return [
        Figure(name=f"{where}: transition_to / raw driver's guarded UPDATE", ratio=ours / taken["raw"], limit=limit),
        *(
            Figure(name=f"{where}: {name} / transition_to", ratio=taken[name] / ours, limit=faster_than_peers, at_least=True)
            for name in PEERS
        ),
        Figure(
            name=f"{where}: save() with a changed status / django-fsm-2's",
            ratio=taken["our save()"] / taken["django-fsm-2's save()"],
            limit=1.0,
        ),
    ]


def bulk(where: str) -> list[Figure]:
    """Compare the transition of many rows with the raw UPDATE of them."""
    from container_manager.models import ContainerJob

    def fresh() -> None:
        ContainerJob.objects.all().delete()
        ContainerJob.objects.bulk_create([ContainerJob(command="true") for _ in range(_BULK_ROWS)])

    def ours(calls: int) -> Iterable[Callable[[], object]]:
        fresh()
        return [lambda: ContainerJob.objects.filter(status="pending").transition_to("queued")]

    def raw(calls: int) -> Iterable[Callable[[], object]]:
        fresh()
        update, parameters = _guarded_update("status = 'pending'"), _now()
        return [lambda: _driver(update, [parameters, parameters])]

    taken = in_turns({"raw": raw, "ours": ours}, rounds=_BULK_ROUNDS, calls=1)
    ContainerJob.objects.all().delete()
    name = f"{where}: bulk transition of {_BULK_ROWS:,} rows / raw UPDATE"
    return [Figure(name=name, ratio=taken["ours"] / taken["raw"], limit=2.0)]


def raw_updates(calls: int) -> Iterable[Callable[[], object]]:
    """Prepare what transition_to sends, for the driver itself: the same columns, the same triggers."""
    from container_manager.models import ContainerJob

    update = _guarded_update("id = %s AND status = 'pending' AND status_version = 0")
    key = ContainerJob._meta.pk
    for job in _fresh(ContainerJob, calls):
        yield partial(_driver, update, [_now(), _now(), key.get_db_prep_value(job.pk, connection)])


def _guarded_update(condition: str) -> str:
    sql = (
        "UPDATE container_manager_containerjob SET status = 'queued', queued_at = %s, launched_at = NULL, "
        "status_version = status_version + 1, status_changed_at = %s, status_changed_by = '', "
        f"status_changed_reason = '' WHERE {condition}"
    )
    return sql if connection.vendor == "postgresql" else sql.replace("%s", "?")


def _now() -> Any:
    now = timezone.now()
    return now if connection.vendor == "postgresql" else now.replace(tzinfo=None).isoformat(" ")


def _driver(sql: str, parameters: list[Any]) -> None:
    assert connection.connection.cursor().execute(sql, parameters).rowcount


def _fresh(model: type[models.Model], count: int) -> list[Any]:
    manager: Any = model._default_manager
    made = manager.bulk_create([model(command="true") for _ in range(count)])
    return list(manager.filter(pk__in=[row.pk for row in made]))


def _loaded(model: type[models.Model], call: Callable[[Any], object], calls: int) -> Iterable[Callable[[], object]]:
    return [partial(call, row) for row in _fresh(model, calls)]


def _peer_call(name: str) -> Callable[[Any], object]:
    return _transition if name == "a save() that looks first" else _queue_and_save_written


def _transition(job: Any) -> None:
    job.transition_to("queued")


def _save(job: Any) -> None:
    job.status = "queued"
    job.save()


def _queue_and_save(job: Any) -> None:
    job.queue_it()
    job.save()


def _queue_and_save_written(job: Any) -> None:
    job.queue_it()
    job.save(update_fields=["status", "queued_at"])


if __name__ == "__main__":
    main()
