"""A worker that is called within a transaction, as users' tests do: it works there, on that connection alone."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection, transaction
from django.test import TestCase

from container_manager import queue
from container_manager.models import ContainerJob, Worker


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Give back what a command changes of its process."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    level = logging.getLogger("container_manager").level
    yield
    logging.getLogger("container_manager").setLevel(level)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.shows("howto/worker.md#a-worker-in-a-transaction")
class InATransaction(TestCase):
    def test_a_worker_drains_what_the_transaction_has_queued(self) -> None:
        jobs = [
            queue.enqueue(command=f"sh -c 'echo out; exit {code}'", max_retries=retries)
            for code, retries in ((0, 0), (3, 0), (4, 1))
        ]
        before = set(threading.enumerate())
        call_command("container", "worker", "--drain", "--slots", "2")
        for job in jobs:
            job.refresh_from_db()
        assert [job.status for job in jobs] == ["completed", "failed", "retrying"]
        assert [job.attempts.get().exit_code for job in jobs] == [0, 3, 4]
        assert [job.output() for job in jobs] == [b"out\n"] * 3
        assert not Worker.objects.exists()
        # One that another test has left may have ended meanwhile.
        assert set(threading.enumerate()) <= before

    def test_the_run_command_refuses_to_work_in_a_transaction(self) -> None:
        with self.assertRaisesMessage(CommandError, "'run' cannot work in a transaction"):
            call_command("container", "run", "true")
        assert not ContainerJob.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_callers_transaction_decides_whether_the_jobs_ever_ran() -> None:
    with transaction.atomic():
        queue.enqueue(command="true")
        call_command("container", "worker", "--drain")
        assert ContainerJob.objects.get().status == "completed"
        transaction.set_rollback(True)
    assert not ContainerJob.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_database_error_in_the_callers_transaction_ends_the_worker() -> None:
    """The transaction is lost with it: to wait and connect anew would store the rest without what came before."""

    def away(execute: Any, sql: str, *rest: Any) -> Any:
        if "SET lease_expires_at" in sql:
            raise OperationalError("away")
        return execute(sql, *rest)

    with (
        pytest.raises((OperationalError, CommandError), match="away"),
        transaction.atomic(),
        connection.execute_wrapper(away),
    ):
        call_command("container", "worker", "--drain")
