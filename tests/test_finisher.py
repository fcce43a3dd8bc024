"""The finisher: what has ended is stored in spite of errors, and by no thread before the worker runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connection

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.models import JobTransition
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.capped_output import CappedOutput
from container_manager.worker.database import Database
from container_manager.worker.finisher import Finisher
from container_manager.worker.run import Run

from .polling import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


def ended() -> Run:
    queue.enqueue(command="true")
    (job,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
    outcome = store.Outcome(job_id=job.id, attempt=job.attempt, status="completed", exit_code=0)
    return Run(
        job=job,
        executor=ProcessExecutor(),
        engine="",
        key="k",
        begin_output=partial(CappedOutput, 1024),
        deadline=None,
        outcome=outcome,
    )


def test_a_worker_starts_no_thread_before_it_runs() -> None:
    """A worker that is made before a fork, and runs in the child, would have lost the thread."""
    before = set(threading.enumerate())
    WorkerLoop(settings=AppSettings(), executors={}, options=WorkerOptions())
    # One that another test has left may have ended meanwhile.
    assert set(threading.enumerate()) <= before


def test_any_error_while_outcomes_are_stored_is_raised_in_the_loop() -> None:
    """No worker goes on with a batch that will never be stored."""
    stored = threading.Event()
    finisher, run = Finisher(Database("default", lease_seconds=60.0), stored.set), ended()
    run.outcome = store.Outcome(job_id=None, attempt=1, status="completed")  # type: ignore[arg-type]
    finisher.start()

    def loop() -> None:
        finisher.give([run], worker="w")
        assert stored.wait(PATIENCE_SECONDS)
        finisher.take()

    try:
        with pytest.raises(AttributeError):
            loop()
    finally:
        finisher.close()


def test_a_batch_of_outcomes_that_could_not_be_stored_raises_and_can_be_stored_again() -> None:
    """The exception tells the loop at once to back off."""

    def away(execute: Callable[..., Any], *args: Any) -> Any:
        raise OperationalError("away")

    woken: list[int] = []
    finisher = Finisher(Database("default", lease_seconds=60.0), lambda: woken.append(1))
    run = ended()
    with connection.execute_wrapper(away), pytest.raises(OperationalError):
        finisher.give([run], worker="w")
    assert (finisher.batch, finisher.take(), woken) == ((), ((), set()), [])
    finisher.give([run], worker="w")
    assert (finisher.take(), woken) == (([run], {run.id}), [1])


def test_outcomes_of_a_batch_are_stored_in_the_order_of_the_jobs_keys() -> None:
    """So two writers of the same rows, a worker and a bulk update say, wait for each other and never in a circle."""
    jobs = sorted(queue.enqueue(command="true").pk for _ in range(6))
    store.claim(worker="w", executors=["default"], limit=6, using="default")
    ends = [store.Outcome(job_id=pk, attempt=1, status="completed", exit_code=0) for pk in reversed(jobs)]
    assert len(store.finish(ends, worker="w", using="default")) == 6
    # The journal is written by the database, as it changes one row after the other.
    assert (
        list(JobTransition.objects.filter(to_status="completed").order_by("pk").values_list("job", flat=True)) == jobs
    )
