"""Claims from many lanes: the order of claims holds across them, and locked jobs hide no others."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.models import ContainerJob
from container_manager.store.sql import store_sql
from container_manager.store.sql.lanes import Wanted
from container_manager.testing import FakeExecutor
from container_manager.worker.known_lanes import KnownLanes
from container_manager.worker.loop import WorkerLoop
from container_manager.worker.worker_options import WorkerOptions

from .bulk_jobs import BulkJobs
from .jobs import THEN

pytestmark = pytest.mark.django_db(transaction=True)
_EXECUTORS = ["default", "docker"]


def claim(limit: int, **wanted: Any) -> list[uuid.UUID]:
    wanted = {"executors": _EXECUTORS, **wanted}
    return [job.id for job in store.claim(worker="w", limit=limit, using="default", **wanted)]


def enqueue_in_many_lanes(count: int, *, queues: int) -> None:
    chance = random.Random(7)  # noqa: S311  # no secret
    hour = timedelta(hours=1)
    queue.enqueue_many(
        ContainerJob(
            command="true",
            executor=chance.choice(_EXECUTORS),
            queue=f"q{chance.randrange(queues)}",
            priority=chance.choice([10, 50, 90]),
            scheduled_for=chance.choice([None, None, timezone.now() - hour, timezone.now() + hour]),
        )
        for _ in range(count)
    )
    jobs = list(ContainerJob.objects.all())
    for job in jobs:
        job.queued_at = THEN + timedelta(seconds=chance.randrange(count))
    ContainerJob.objects.bulk_update(jobs, ["queued_at"])


@pytest.mark.parametrize(("queues", "limit"), [(3, 50), (40, 4)], ids=["few lanes", "more lanes than jobs are wanted"])
def test_the_order_of_claims_holds_across_queues_executors_and_schedules(queues: int, limit: int) -> None:
    enqueue_in_many_lanes(120, queues=queues)
    in_order = list(ContainerJob.objects.ready().values_list("pk", flat=True))
    assert 60 < len(in_order) < 120
    claimed: list[uuid.UUID] = []
    while more := claim(limit):
        claimed += more
    assert claimed == in_order


def test_a_worker_of_more_queues_than_a_statement_can_name_claims_from_its_own_only() -> None:
    enqueue_in_many_lanes(60, queues=10)
    names = ["q3", "q5", *(f"empty {number}" for number in range(600))]
    in_order = list(ContainerJob.objects.ready().filter(queue__in=names).values_list("pk", flat=True))
    assert in_order
    assert claim(100, queues=names) == in_order


@contextmanager
def locked_by_an_application(keys: list[uuid.UUID]) -> Iterator[None]:
    """Lock jobs in a transaction of another session."""
    other = connection.copy()
    field = ContainerJob._meta.pk
    other.set_autocommit(False)
    try:
        with other.cursor() as cursor:
            marks = ", ".join(["%s"] * len(keys))
            cursor.execute(
                f"SELECT id FROM container_manager_containerjob WHERE id IN ({marks}) ORDER BY id FOR UPDATE",
                [field.get_db_prep_value(key, other) for key in keys],
            )
        yield
    finally:
        other.rollback()
        other.close()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no row locks.")
@pytest.mark.parametrize("queues", [["a"], ["a", "b"]], ids=["one lane", "two lanes"])
def test_jobs_behind_many_locked_jobs_are_claimed(queues: list[str]) -> None:
    first = [queue.enqueue(command="true", queue=name, priority=90).pk for name in queues for _ in range(40)]
    last = [queue.enqueue(command="true", queue=name).pk for name in queues]
    with locked_by_an_application(first):
        assert claim(1) == last[:1]
        assert claim(5) == last[1:]
        assert claim(1) == []
    assert claim(1) == first[:1]


def take(lanes: KnownLanes, executors: list[str], room: int) -> list[uuid.UUID]:
    jobs = store.claim(worker="w", executors=executors, lanes=lanes.find(executors), limit=room, using="default")
    return [job.id for job in jobs]


class TestKnownLanes:
    def take(self, lanes: KnownLanes, room: int) -> list[uuid.UUID]:
        return take(lanes, ["default"], room)

    def test_a_claim_that_leaves_room_looks_for_other_lanes(self) -> None:
        lanes = KnownLanes(queues=None, only=None, using="default", look_seconds=3600.0)
        known = [queue.enqueue(command="true", queue="a").pk for _ in range(2)]
        assert self.take(lanes, 1) == known[:1]
        new = queue.enqueue(command="true", queue="b")
        assert self.take(lanes, 5) == known[1:]
        assert lanes.find_more()
        assert self.take(lanes, 5) == [new.pk]
        assert not lanes.find_more()

    def test_a_worker_that_knows_no_lanes_looks_before_it_claims_and_not_again_after(self) -> None:
        lanes = KnownLanes(queues=None, only=None, using="default", look_seconds=3600.0)
        assert self.take(lanes, 5) == []
        job = queue.enqueue(command="true")
        assert self.take(lanes, 5) == [job.pk]
        assert not lanes.find_more()

    def test_a_busy_worker_looks_for_other_lanes_when_it_is_time(self) -> None:
        lanes = KnownLanes(queues=None, only=None, using="default", look_seconds=0.0)
        for _ in range(2):
            queue.enqueue(command="true", queue="a")
        self.take(lanes, 1)
        urgent = queue.enqueue(command="true", queue="b", priority=100)
        assert self.take(lanes, 1) == [urgent.pk]

    def test_a_worker_stops_claiming_from_a_paused_queue_at_once(self) -> None:
        lanes = KnownLanes(queues=None, only=None, using="default", look_seconds=3600.0)
        for name in "aab":
            queue.enqueue(command="true", queue=name)
        self.take(lanes, 1)
        queue.pause_queue("a")
        assert [job.queue for job in ContainerJob.objects.filter(pk__in=self.take(lanes, 1))] == ["b"]
        queue.pause_queue("b")
        assert self.take(lanes, 1) == []

    def test_a_claim_for_a_further_executor_finds_its_lanes_at_once(self) -> None:
        lanes = KnownLanes(queues=None, only=None, using="default", look_seconds=3600.0)
        queue.enqueue(command="true")
        docker = queue.enqueue(command="true", executor="docker", priority=90)
        assert len(self.take(lanes, 1)) == 1
        assert take(lanes, _EXECUTORS, 1) == [docker.pk]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL compiles statements.")
def test_the_scan_for_lanes_is_too_cheap_to_be_compiled() -> None:
    """A worker's own sessions never compile, but those behind a pooler are as the server has set them."""
    enqueue_in_many_lanes(200, queues=10)
    jobs = BulkJobs()
    for name in _EXECUTORS:
        jobs.add("queued", 10_000, executor=name)
    scan, params = store_sql(connection).lanes.scan(Wanted(_EXECUTORS))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE container_manager_containerjob")
        cursor.execute("SELECT current_setting('jit'), current_setting('jit_above_cost')::float")
        is_on, most = cursor.fetchone()
        cursor.execute(f"EXPLAIN (FORMAT JSON) {scan}", params)
        plan = cursor.fetchone()[0]
    cost = (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]["Total Cost"]
    assert is_on == "on"
    assert cost < most / 2


def test_a_worker_claims_from_the_lanes_that_it_knows_and_does_not_look_before_each_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[Any] = []
    look = store.due_lanes

    def counted(**wanted: Any) -> Any:
        looks.append(wanted)
        return look(**wanted)

    monkeypatch.setattr(store, "due_lanes", counted)
    served = [queue.enqueue(command="true", queue="served").pk for _ in range(6)]
    other = queue.enqueue(command="true", queue="other", priority=90)
    worker = WorkerLoop(
        settings=AppSettings(poll_seconds=3600.0),
        executors={"default": FakeExecutor()},
        options=WorkerOptions(slots=1, queues=("served",), max_jobs=6, inline=True),
    )
    assert worker.run() == 6
    assert set(ContainerJob.objects.filter(status="completed").values_list("pk", flat=True)) == set(served)
    assert ContainerJob.objects.get(pk=other.pk).status == "queued"
    assert [wanted["queues"] for wanted in looks] == [("served",)]
