"""A deadlock that the database reports is tried again: nobody sees it but the log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from container_manager import queue, store
from container_manager.models import ContainerJob

from .workers import eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time"),
]
# MariaDB ends the one of two transactions that has changed less.
_WEIGHT = 1000
# Of the tests' own connections: others wait on the same server.
_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    # The tables that say who waits are made anew only after 0.1 s in which nobody on the server has read them.
    "mysql": "SHOW ENGINE INNODB STATUS",
}
_WAITING_THREAD = re.compile(r"^LOCK WAIT .*\n(?:.*\n)??MariaDB thread id (\d+),", re.MULTILINE)


class Other:
    """Somebody else, in a transaction that locks jobs one by one."""

    def __init__(self, other: Any) -> None:
        self._connection = other

    def lock(self, job: ContainerJob) -> None:
        key = ContainerJob._meta.pk.get_db_prep_value(job.pk, self._connection)
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM container_manager_containerjob WHERE id = %s FOR UPDATE", [key])

    def put_on_weight(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany("INSERT INTO auth_group (name) VALUES (%s)", [(f"g{n}",) for n in range(_WEIGHT)])

    def let_go(self) -> None:
        self._connection.rollback()


@contextmanager
def other() -> Iterator[Other]:
    own = connection.copy()
    own.inc_thread_sharing()
    if connection.vendor == "postgresql":
        with own.cursor() as cursor:
            # PostgreSQL ends the one that looks while they wait for each other, and each looks once: the worker shall.
            cursor.execute("SET deadlock_timeout = '1min'")
    own.set_autocommit(False)
    try:
        yield Other(own)
    finally:
        own.rollback()
        own.close()


def waiting_sessions() -> int:
    """Return how many sessions of this database wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING[connection.vendor])
        if connection.vendor == "postgresql":
            return int(cursor.fetchone()[0])
        waiting = set(_WAITING_THREAD.findall(cursor.fetchone()[2]))
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = database()")
        return sum(1 for (thread,) in cursor.fetchall() if str(thread) in waiting)


def wait_for_locks(sessions: int) -> None:
    """Return once so many sessions wait for locks, from any thread."""
    try:
        eventually(lambda: waiting_sessions() >= sessions)
    finally:
        connection.close()


@contextmanager
def a_deadlock(prepare: Callable[[], object] = lambda: None) -> Iterator[list[ContainerJob]]:
    """Give jobs; whoever wants them all, in the order of their keys, is broken off once.

    The rival has the last one, and waits for the first. Whoever looks for deadlocks does so only once, as it begins to
    wait for the last one: by then the rival waits, since until then somebody has had the one between the two.
    """
    jobs = sorted((queue.enqueue(command="true") for _ in range(3)), key=lambda job: job.pk)
    first, middle, last = jobs
    prepare()
    with other() as rival, other() as gate, ThreadPoolExecutor(2) as pool:
        rival.lock(last)
        rival.put_on_weight()
        gate.lock(middle)

        def cross() -> None:
            try:
                wait_for_locks(1)
                rival.lock(first)
            finally:
                rival.let_go()

        def open_gate() -> None:
            try:
                wait_for_locks(2)
            finally:
                gate.let_go()

        ends = [pool.submit(cross), pool.submit(open_gate)]
        yield jobs
        for end in ends:
            end.result()


def cancel(*jobs: ContainerJob) -> None:
    ContainerJob.objects.filter(pk__in=[job.pk for job in jobs]).transition_to("cancelled")


def test_a_bulk_transition_that_was_a_deadlock_victim_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    with a_deadlock() as jobs:
        cancel(*jobs)
    assert set(ContainerJob.objects.values_list("status", flat=True)) == {"cancelled"}
    assert "The database broke a deadlock, trying again" in caplog.text


@pytest.mark.skipif(connection.vendor != "mysql", reason="PostgreSQL looks for deadlocks later than a finish waits.")
def test_a_finish_that_was_a_deadlock_victim_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    claimed: list[store.ClaimedJob] = []

    def claim() -> None:
        claimed.extend(store.claim(worker="w", executors=["default"], limit=3, using="default"))

    with a_deadlock(claim):
        ends = [store.Outcome(job_id=job.id, attempt=1, status="completed", exit_code=0) for job in claimed]
        assert len(store.finish(ends, worker="w", using="default")) == 3
    assert set(ContainerJob.objects.values_list("status", flat=True)) == {"completed"}
    assert "The database broke a deadlock, trying again" in caplog.text


@contextmanager
def by_hand() -> Iterator[None]:
    """A transaction without `atomic`."""
    transaction.set_autocommit(False)
    try:
        yield
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@pytest.mark.parametrize("callers", [transaction.atomic, by_hand])
def test_a_deadlock_inside_the_callers_transaction_is_raised(
    callers: Callable[[], AbstractContextManager[None]],
) -> None:
    with a_deadlock() as jobs, pytest.raises(OperationalError, match=r"(?i)deadlock"), callers():
        cancel(*jobs)
    assert set(ContainerJob.objects.values_list("status", flat=True)) == {"queued"}
