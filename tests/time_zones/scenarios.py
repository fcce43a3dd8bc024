"""What the store, the triggers and Django's clock write and compare must be times of one zone.

A wrong zone is off by hours, so a minute is near enough.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from container_manager import queue, store
from container_manager.cli.printing import clock
from container_manager.models import (
    ContainerJob,
    JobAttempt,
    JobStatus,
    JobTransition,
    QueueSpan,
    StatisticsProgress,
    Worker,
)
from container_manager.queue import prune_jobs
from container_manager.statemachine.installation import drift

from ..protocol.records import rescue

pytestmark = pytest.mark.django_db

_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
# That of Django's times: None where these are naive.
_ZONE = UTC if settings.USE_TZ else None


def claim(worker: str = "w") -> list[store.ClaimedJob]:
    return store.claim(worker=worker, executors=["default"], limit=10, using="default")


def finish(job: ContainerJob, *, status: str = "completed", **values: Any) -> None:
    result = store.Outcome(job_id=job.pk, attempt=1, status=status, **values)
    assert store.finish([result], worker="w", using="default") == {(job.pk, 1)}
    job.refresh_from_db()


def running() -> ContainerJob:
    job = queue.enqueue(command="true")
    assert [claimed.id for claimed in claim()] == [job.pk]
    job.refresh_from_db()
    return job


def is_near(moment: datetime | None, expected: datetime | None = None) -> bool:
    return moment is not None and abs(moment - (expected or timezone.now())) < _MINUTE


def test_only_jobs_that_are_due_are_claimed() -> None:
    now = timezone.now()
    due = queue.enqueue(command="true", scheduled_for=now)
    overdue = queue.enqueue(command="true", scheduled_for=now - _HOUR)
    later = queue.enqueue(command="true", scheduled_for=now + _HOUR)
    assert set(ContainerJob.objects.ready()) == {due, overdue}
    assert {job.id for job in claim()} == {due.pk, overdue.pk}
    later.refresh_from_db()
    assert later.queue_status == "scheduled"


def test_the_times_of_a_run_are_the_present_time() -> None:
    job = running()
    assert is_near(job.queued_at)
    assert is_near(job.launched_at)
    assert job.duration is not None
    assert -_MINUTE < job.duration < _MINUTE
    (owned,) = store.owned_attempts(worker="w", using="default")
    assert -1 < owned.job.elapsed_seconds < 60
    finish(job)
    attempt = JobAttempt.objects.get()
    assert is_near(job.completed_at)
    assert is_near(attempt.launched_at)
    assert is_near(attempt.finished_at)
    assert timedelta() <= job.duration < _MINUTE


def test_a_retry_is_due_after_its_delay() -> None:
    job = running()
    finish(job, status="failed", reason="error", retry_after_seconds=3600)
    assert is_near(job.scheduled_for, timezone.now() + _HOUR)
    assert store.promote_retries(using="default") == 0
    other = running()
    finish(other, status="failed", reason="error", retry_after_seconds=0)
    assert is_near(other.scheduled_for)
    ContainerJob.objects.filter(pk=other.pk).update(scheduled_for=timezone.now() - _MINUTE)
    assert store.promote_retries(using="default") == 1


@pytest.mark.parametrize(("seconds", "lives"), [(600, True), (-600, False)])
def test_a_lease_lasts_as_long_as_its_setting(seconds: float, lives: bool) -> None:
    row = Worker(id="w", host="h", pid=1, queues=[], executors=["default"], slots=1, lease_expires_at=timezone.now())
    store.register_worker(row, lease_seconds=seconds, using="default")
    row.refresh_from_db()
    assert is_near(row.lease_expires_at, timezone.now() + timedelta(seconds=seconds))
    assert (row.lease_expires_at >= timezone.now()) is lives
    assert store.live_workers(using="default") == (["w"] if lives else [])
    running()
    assert rescue("other") == (0 if lives else 1)


def test_the_databases_time_is_the_present() -> None:
    assert is_near(store.database_now(using="default"))


def test_every_way_to_a_status_is_journaled_at_the_present_time() -> None:
    jobs = [ContainerJob.objects.create_job(command="true") for _ in range(5)]
    jobs[0].transition_to(JobStatus.QUEUED)
    jobs[1].status = JobStatus.QUEUED
    jobs[1].save()
    ContainerJob.objects.filter(pk=jobs[2].pk).transition_to(JobStatus.QUEUED)
    ContainerJob.objects.filter(pk=jobs[3].pk).update(status="cancelled")
    key = ContainerJob._meta.pk.get_db_prep_value(jobs[4].pk, connection)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE container_manager_containerjob SET status = 'cancelled' WHERE id = %s", [key])
    assert len(claim()) == 3
    finish(jobs[0])
    entries = list(JobTransition.objects.all())
    assert len(entries) == 9
    assert [entry for entry in entries if not is_near(entry.at)] == []
    assert [job for job in ContainerJob.objects.all() if not is_near(job.status_changed_at)] == []


def test_statistics_and_pruning_see_recently_finished_jobs() -> None:
    job = running()
    finish(job)
    queue.enqueue(command="true")
    queue.enqueue(command="true", scheduled_for=timezone.now() + _HOUR)
    found = queue.queue_statistics(since=_MINUTE)["default"]
    assert (found.queued, found.scheduled, found.finished) == (1, 1, {"completed": 1})
    assert prune_jobs(before=timezone.now() - _MINUTE, using="default") == 0
    assert prune_jobs(before=timezone.now() + _MINUTE, using="default") == 1


def test_transitions_are_counted_in_the_minute_of_their_time() -> None:
    job = running()
    ContainerJob.objects.filter(pk=job.pk).update(scheduled_for=timezone.now() - _MINUTE)
    finish(job)
    counting = store.Aggregation(keep_seconds=3600.0, using="default")
    while StatisticsProgress.objects.filter(counted_to__gt=0).first() is None:
        counting.step()
    spans = QueueSpan.objects.filter(length=QueueSpan.MINUTE)
    assert spans
    assert [span for span in spans if not is_near(datetime.fromtimestamp(60 * span.minute + 30, _ZONE))] == []
    # Since it was queued: the schedule was over by then.
    assert sum(span.wait_0 + span.wait_1 + span.wait_2 for span in spans) == 1
    assert sum(span.run_0 + span.run_1 + span.run_2 for span in spans) == 1


def test_times_are_printed_in_utc() -> None:
    entry = running().transitions.get()
    now = datetime.now(UTC)
    printed = datetime.combine(now, datetime.strptime(clock(entry.at), "%H:%M:%S.%f").time(), UTC)
    # Between the two, midnight may have passed.
    assert min(abs(printed - now), timedelta(days=1) - abs(printed - now)) < _MINUTE


def test_the_installed_triggers_are_those_of_this_zone() -> None:
    assert drift(ContainerJob, "default") == []
