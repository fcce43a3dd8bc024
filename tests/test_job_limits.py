"""An executor's limits hold for each of its jobs, whatever the job asks for."""

from __future__ import annotations

import uuid

import pytest
from django.test import override_settings

from container_manager import queue
from container_manager.conf import PROCESS_EXECUTOR, AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.jobs.spec import JobSpec
from container_manager.store import ClaimedJob
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.job_limits import within_limits

from .jobs import job_in


def settings(**limits: int | None) -> AppSettings:
    return AppSettings(executors={"default": {"BACKEND": PROCESS_EXECUTOR, "LIMITS": limits}})


@pytest.mark.parametrize(
    ("asked", "limits", "given"),
    [
        ((None, 3, 10), {}, (None, 3, 10)),
        ((None, 3, 10), {"timeout_seconds": 60, "max_retries": 0, "grace_seconds": 5}, (60, 0, 5)),
        ((30, 3, 10), {"timeout_seconds": 60, "max_retries": 9, "grace_seconds": 60}, (30, 3, 10)),
        ((90, 3, 10), {"timeout_seconds": 60}, (90, 3, 10)),
        ((None, 3, 10), {"timeout_seconds": None, "max_retries": None, "grace_seconds": 0}, (None, 3, 0)),
    ],
)
@pytest.mark.without_database
def test_a_job_gets_no_more_than_its_executors_limits(
    asked: tuple[int | None, int, int], limits: dict[str, int | None], given: tuple[int | None, int, int]
) -> None:
    timeout, retries, grace = asked
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(timeout_seconds=timeout, max_retries=retries, grace_seconds=grace))
    spec = within_limits(job, settings(**limits)).spec
    assert (spec.timeout_seconds, spec.max_retries, spec.grace_seconds) == given


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("reference/settings.md#limits-of-an-executors-jobs")
def test_a_worker_enforces_the_limits_of_each_jobs_executor() -> None:
    deaf = queue.enqueue(
        command="sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'", grace_seconds=86400, max_retries=9
    )
    greedy = queue.enqueue(command="true", timeout_seconds=2, max_retries=0)
    limited = settings(timeout_seconds=1, max_retries=0, grace_seconds=0)
    WorkerLoop(settings=limited, executors={"default": ProcessExecutor()}, options=WorkerOptions(drain=True)).run()
    for job in (deaf, greedy):
        job.refresh_from_db()
    assert (deaf.status, deaf.failure_reason, deaf.attempts.count()) == ("failed", "timeout", 1)
    assert deaf.grace_seconds == 86400
    assert (greedy.status, greedy.failure_reason) == ("failed", "start")
    assert "asks for timeout_seconds=2; the executor 'default' allows 1" in greedy.last_error


@pytest.mark.django_db
@pytest.mark.parametrize(("retries", "status"), [(0, "failed"), (1, "retrying"), (None, "retrying")])
def test_a_job_that_code_marks_as_failed_gets_no_more_retries_than_the_limits_of_its_executor(
    retries: int | None, status: str
) -> None:
    executor = {"BACKEND": PROCESS_EXECUTOR, "LIMITS": {"max_retries": retries}}
    job = job_in("running", max_retries=3)
    with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"default": executor}}):
        job.mark_as_failed(should_retry=True)
    assert job.status == status
