"""Wait for a job's end, in synchronous and in asynchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction

from container_manager import queue
from container_manager.models import ContainerJob, JobStatus

from .jobs import job_in
from .polling import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)
WAYS: list[Callable[..., JobStatus]] = [ContainerJob.wait, async_to_sync(ContainerJob.await_)]


def later(move: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        move()
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.shows("howto/queue.md#wait-for-a-job")
@pytest.mark.parametrize("wait", WAYS, ids=["sync", "async"])
@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_wait_ends_when_the_job_has_finished(status: str, wait: Callable[..., JobStatus]) -> None:
    job = job_in("running")
    elsewhere = ContainerJob.objects.get()
    thread = later(lambda: elsewhere.transition_to(status, reason="by hand"))
    assert wait(job, timeout=PATIENCE_SECONDS) == status
    assert (job.status, job.status_changed_reason) == (status, "by hand")
    thread.join()


@pytest.mark.parametrize("wait", WAYS, ids=["sync", "async"])
def test_a_wait_for_a_job_that_does_not_end_raises_an_error_with_its_status(wait: Callable[..., JobStatus]) -> None:
    job = queue.enqueue(command="true")
    with pytest.raises(TimeoutError, match=f"{job.pk} is still queued after 0.05 s"):
        wait(job, timeout=0.05)
    with pytest.raises(TimeoutError, match="still queued"):
        wait(job, timeout=0)


def test_a_wait_does_not_end_for_a_failed_job_that_will_be_retried() -> None:
    with pytest.raises(TimeoutError, match="still retrying"):
        job_in("retrying").wait(timeout=0)


def test_a_wait_in_a_transaction_is_refused_unless_the_job_has_finished() -> None:
    job, finished = queue.enqueue(command="true"), job_in("completed")
    with transaction.atomic():
        assert finished.wait() == "completed"
        with pytest.raises(transaction.TransactionManagementError, match="is queued; wait for its end outside"):
            job.wait()


def test_a_wait_ends_when_its_job_is_deleted() -> None:
    job = queue.enqueue(command="true")
    ContainerJob.objects.get().delete()
    with pytest.raises(ContainerJob.DoesNotExist):
        job.wait()


def test_other_coroutines_run_while_one_waits_for_a_job() -> None:
    async def both() -> list[JobStatus]:
        jobs = [await queue.aenqueue(command="true") for _ in range(2)]

        async def cancel() -> None:
            for job in jobs:
                await ContainerJob.objects.filter(pk=job.pk).atransition_to("cancelled")

        *ends, _ = await asyncio.gather(*(job.await_(timeout=PATIENCE_SECONDS) for job in jobs), cancel())
        return ends

    assert async_to_sync(both)() == ["cancelled", "cancelled"]
    assert not connection.in_atomic_block
