"""Names of executors, queues and workers: what differs in Python differs in every database."""

from __future__ import annotations

import pytest
from django.db import connection

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt, PausedQueue, Worker
from container_manager.worker import WorkerLoop, WorkerOptions

from .protocol.records import expire_lease, register, rescue

pytestmark = pytest.mark.django_db(transaction=True)
# Equal, or alike, in the collations that MariaDB and MySQL use by default.
_ALIKE = ["Mail", "mail ", "mäil"]


def claimed(*, executor: str = "default", queues: tuple[str, ...] | None = None) -> list[str]:
    jobs = store.claim(worker="w", executors=[executor], queues=queues, limit=10, using="default")
    return [f"{job.spec.executor}/{job.spec.queue}" for job in jobs]


@pytest.mark.parametrize("alike", _ALIKE)
def test_a_worker_claims_no_jobs_of_an_executor_with_a_similar_name(alike: str) -> None:
    queue.enqueue(command="true", executor=alike)
    assert claimed(executor="mail") == []
    assert claimed(executor=alike) == [f"{alike}/default"]


@pytest.mark.parametrize("alike", _ALIKE)
def test_a_worker_claims_no_jobs_of_a_queue_with_a_similar_name(alike: str) -> None:
    queue.enqueue(command="true", queue=alike)
    assert claimed(queues=("mail",)) == []
    assert claimed(queues=(alike,)) == [f"default/{alike}"]


@pytest.mark.shows("reference/jobs.md#the-queue")
@pytest.mark.parametrize("alike", _ALIKE)
def test_pausing_a_queue_pauses_no_queue_with_a_similar_name(alike: str) -> None:
    queue.enqueue(command="true", queue="mail")
    assert queue.pause_queue(alike)
    assert claimed() == ["default/mail"]
    assert queue.pause_queue("mail")
    assert PausedQueue.objects.count() == 2
    assert queue.resume_queue(alike)
    assert queue.paused_queues() == ["mail"]


@pytest.mark.parametrize("alike", _ALIKE)
def test_a_worker_neither_finishes_nor_protects_from_rescue_attempts_of_a_worker_with_a_similar_id(alike: str) -> None:
    job = queue.enqueue(command="true")
    for name in ("mail", alike):
        register(name)
    store.claim(worker="mail", executors=["default"], limit=1, using="default")
    outcome = store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)
    assert store.finish([outcome], worker=alike, using="default") == set()
    assert store.owned_attempts(worker=alike, using="default") == []
    expire_lease("mail")
    assert rescue(alike) == 1
    assert list(Worker.objects.values_list("pk", flat=True)) == [alike]
    assert JobAttempt.objects.get().worker == ContainerJob.objects.get().worker == alike


def test_a_worker_runs_its_own_jobs_beside_a_job_of_an_executor_with_a_similar_name() -> None:
    queue.enqueue(command="true", executor="Default", priority=90)
    queue.enqueue(command="true")
    loop = WorkerLoop(
        settings=AppSettings(poll_seconds=0.05),
        executors={"default": ProcessExecutor()},
        options=WorkerOptions(drain=True),
    )
    assert loop.run() == 1
    assert set(ContainerJob.objects.values_list("executor", "status")) == {
        ("Default", "queued"),
        ("default", "completed"),
    }


def test_django_sees_no_difference_between_the_columns_and_their_fields() -> None:
    """The collation is the field's own, not a wish of the migration."""
    for model, name in (
        (ContainerJob, "executor"),
        (ContainerJob, "queue"),
        (ContainerJob, "worker"),
        (JobAttempt, "executor"),
        (JobAttempt, "worker"),
        (PausedQueue, "name"),
        (Worker, "id"),
    ):
        with connection.cursor() as cursor:
            columns = connection.introspection.get_table_description(cursor, model._meta.db_table)
        collation = next(column.collation for column in columns if column.name == name)
        expected = model._meta.get_field(name).db_parameters(connection).get("collation")
        assert collation == expected, (model, name)
