"""A deadlock that the database reports is tried again: nobody sees it but the log."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import OperationalError, connection, connections, transaction

from container_manager import queue
from container_manager.models import ContainerJob
from container_manager.store.consistency import examine

from .workers import eventually, worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time"),
]
# MariaDB ends the one of two transactions that has changed less.
_WEIGHT = 1000
_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    "mysql": "SELECT variable_value + 0 FROM information_schema.global_status WHERE variable_name = 'Innodb_row_lock_current_waits'",
}


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


def someone_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_WAITING[connection.vendor])
        return bool(cursor.fetchone()[0])


def is_completed(job: ContainerJob) -> Callable[[], bool]:
    return ContainerJob.objects.filter(pk=job.pk, status="completed").exists


@pytest.mark.shows("explanation/worker.md#the-database-is-away")
def test_a_worker_retries_a_finish_that_was_a_deadlock_victim(tmp_path: Path) -> None:
    """Two ends come to be stored at once, since a third is held up; of these two, the other locks the second first."""
    names, log, pids = ("first", "second", "third"), tmp_path / "log", tmp_path / "pids"
    gos = {name: tmp_path / name for name in names}
    for go in gos.values():
        os.mkfifo(go)
    command = "sh -c 'echo $$ >> {}; read word < {}; echo done'"
    first, second, third = (queue.enqueue(command=command.format(pids, gos[name])) for name in names)
    with ExitStack() as stack:
        words = {}
        holder, rival = stack.enter_context(other()), stack.enter_context(other())
        # By then the other waits too, however slow the machine is.
        looks_later = {"PGOPTIONS": "-c deadlock_timeout=5s"}
        # A long lease: it does not wait for a lock for longer than a part of it.
        process = stack.enter_context(worker("--slots", "8", log=log, lease_seconds=600.0, **looks_later))
        for name in names:
            words[name] = stack.enter_context(gos[name].open("w"))  # returns once the command reads

        def say(name: str) -> None:
            words[name].write("\n")
            words[name].flush()

        holder.lock(third)
        rival.lock(second)
        rival.put_on_weight()
        say("third")
        eventually(someone_waits)
        # Who keeps a command reports its end before it ends itself.
        keepers = [psutil.Process(int(pid)).ppid() for pid in pids.read_text().split() if psutil.pid_exists(int(pid))]
        say("first")
        say("second")
        eventually(lambda: not any(map(psutil.pid_exists, keepers)))
        # Each claim is a turn of the loop: by then it has taken note of both.
        for _ in range(3):
            eventually(ContainerJob.objects.filter(pk=queue.enqueue(command="true").pk, status="running").exists)
        holder.let_go()
        eventually(lambda: is_completed(third)() and someone_waits())
        rival.lock(first)
        rival.let_go()
        for job in (first, second):
            eventually(is_completed(job))
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert set(ContainerJob.objects.values_list("status", "attempt")) == {("completed", 1)}
    assert examine().problems == []
    said = log.read_text()
    assert said.lower().count("deadlock") >= 1
    assert "Traceback" not in said


@contextmanager
def a_deadlock() -> Iterator[tuple[ContainerJob, ContainerJob]]:
    """Give two jobs; whoever wants both, in the order of their keys, is broken off once."""
    first, second = sorted((queue.enqueue(command="true") for _ in range(2)), key=lambda job: job.pk)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # It looks once, and by then the other waits too, however slow the machine is.
            cursor.execute("SET deadlock_timeout = '3s'")
    with other() as rival, ThreadPoolExecutor(1) as pool:
        rival.lock(second)
        rival.put_on_weight()

        def cross() -> None:
            try:
                eventually(someone_waits)
                rival.lock(first)
            finally:
                rival.let_go()
                connections.close_all()

        crossed = pool.submit(cross)
        yield first, second
        crossed.result()


def cancel(*jobs: ContainerJob) -> None:
    ContainerJob.objects.filter(pk__in=[job.pk for job in jobs]).transition_to("cancelled")


def test_a_bulk_transition_that_was_a_deadlock_victim_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    with a_deadlock() as jobs:
        cancel(*jobs)
    assert set(ContainerJob.objects.values_list("status", flat=True)) == {"cancelled"}
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
