"""Pruning honours what other models and tables declare; what is protected stays, and keeps no others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, models
from django.db.models.signals import post_delete
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from container_manager.conf import AppSettings
from container_manager.models import ContainerJob, JobAttempt, JobLog, JobTransition
from container_manager.queue import prune_jobs
from container_manager.store import Pruning
from container_manager.worker.maintenance import Maintenance

from ..jobs import THEN, job_in
from ..protocol.records import register
from .models import Bill, Comment, Contract, Invoice, Note, Remark, Report, Review

pytestmark = pytest.mark.django_db(transaction=True)
LATER = timezone.now() + timedelta(days=1)
PROTECTING = [
    lambda job: Invoice.objects.create(job=job),
    lambda job: Contract.objects.create(job=job),
    lambda job: Bill.objects.create(comment=Comment.objects.create(job=job)),
    lambda job: Remark.objects.create(job=job),
]
NAMES = ["PROTECT", "RESTRICT", "PROTECT of a cascade", "DO_NOTHING"]


def ended(count: int) -> list[ContainerJob]:
    """Make finished jobs with an attempt, output and journal."""
    jobs = [job_in("queued") for _ in range(count)]
    for job in jobs:
        job.mark_as_cancelled()
        attempt = job.attempts.create(number=1, worker="w", executor="default", launched_at=THEN, finished_at=THEN)
        JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"x")
    return jobs


def assert_only(jobs: list[ContainerJob]) -> None:
    """Assert that these jobs are there with all that belongs to them, and no others."""
    keys = {job.pk for job in jobs}
    assert set(ContainerJob.objects.values_list("pk", flat=True)) == keys
    assert set(JobAttempt.objects.values_list("job", flat=True)) == keys
    assert set(JobLog.objects.values_list("attempt__job", flat=True)) == keys
    assert set(JobTransition.objects.values_list("job", flat=True)) == keys


@pytest.mark.parametrize("protect", PROTECTING, ids=NAMES)
def test_protected_jobs_stay_and_the_others_are_pruned(protect: Callable[[ContainerJob], Any]) -> None:
    jobs = ended(5)
    for job in (jobs[0], jobs[3]):
        protect(job)
    assert prune_jobs(before=LATER) == 3
    assert_only([jobs[0], jobs[3]])
    for model in (Bill, Comment, Invoice, Contract, Remark):
        model.objects.all().delete()
    assert prune_jobs(before=LATER) == 2


@pytest.mark.parametrize("protect", PROTECTING, ids=NAMES)
def test_protected_jobs_before_others_do_not_fill_every_batch(protect: Callable[[ContainerJob], Any]) -> None:
    jobs = ended(5)
    for job in jobs[:3]:
        protect(job)
    assert prune_jobs(before=LATER, limit=1) == 1
    assert_only([*jobs[:3], jobs[4]])


@pytest.fixture
def unknown_table() -> Iterator[None]:
    """Create a table that refers to jobs and that Django does not know."""

    class Unknown(models.Model):
        job = models.ForeignKey(ContainerJob, models.CASCADE, related_name="+")

        class Meta:
            app_label = "unknown"
            apps = type(ContainerJob._meta.apps)()

        def __str__(self) -> str:
            return ""

    with connection.schema_editor() as editor:
        editor.create_model(Unknown)
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(Unknown)


def test_a_table_that_django_does_not_know_keeps_its_jobs_and_no_others(unknown_table: None) -> None:
    jobs = ended(3)
    with connection.cursor() as cursor:
        key = ContainerJob._meta.pk.get_db_prep_value(jobs[1].pk, connection)
        cursor.execute("INSERT INTO unknown_unknown (job_id) VALUES (%s)", [key])
    assert prune_jobs(before=LATER) == 2
    assert_only([jobs[1]])
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM unknown_unknown")


def test_on_delete_of_other_models_is_applied_to_their_rows() -> None:
    jobs = ended(2)
    note = Note.objects.create(job=jobs[0])
    Comment.objects.create(job=jobs[0])
    Review.objects.create(attempt=jobs[1].attempts.get())
    report = Report.objects.create()
    report.jobs.set(jobs)
    gone: list[Any] = []

    def note_deletion(instance: Comment, **kwargs: Any) -> None:
        gone.append(instance)

    post_delete.connect(note_deletion, sender=Comment)
    try:
        assert prune_jobs(before=LATER) == 2
    finally:
        post_delete.disconnect(note_deletion, sender=Comment)
    note.refresh_from_db()
    assert note.job is None
    assert (Comment.objects.count(), Review.objects.count(), report.jobs.count(), len(gone)) == (0, 0, 0, 1)
    assert_only([])


def test_a_worker_logs_protected_jobs_once_and_skips_them_afterwards(caplog: Any) -> None:
    jobs = ended(4)
    for job in jobs[:2]:
        Invoice.objects.create(job=job)
    Remark.objects.create(job=jobs[2])
    register("w")
    maintenance = Maintenance(AppSettings(prune_after_seconds=-60.0), using="default")
    with caplog.at_level(logging.WARNING, logger="container_manager"):
        for _ in range(3):
            maintenance._prune.hurry()
            maintenance.run("w", {}, retries_are_due=False)
    assert_only(jobs[:3])
    assert len([line for line in caplog.messages if "is not pruned" in line]) == 2
    assert any("relations.Invoice.job" in line for line in caplog.messages)
    later = ended(1)
    maintenance._prune.hurry()
    maintenance.run("w", {}, retries_are_due=False)
    assert_only(jobs[:3])
    assert not ContainerJob.objects.filter(pk=later[0].pk).exists()
    Invoice.objects.all().delete()
    # An hour later, say.
    maintenance._prune_again.hurry()
    maintenance._prune.hurry()
    maintenance.run("w", {}, retries_are_due=False)
    assert_only([jobs[2]])
    assert len([line for line in caplog.messages if "is not pruned" in line]) == 2


def test_jobs_that_were_examined_are_not_queried_again() -> None:
    for job in ended(3):
        Contract.objects.create(job=job)
    pruning = Pruning(using="default")
    assert pruning.delete(before=LATER, size=10) == (0, True)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert pruning.delete(before=LATER, size=10) == (0, False)
    # One for each status.
    assert len(asked) == 3
