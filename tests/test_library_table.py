"""The last column of the table of libraries in ``docs/explanation/status.md``: what this project does on each path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse

from container_manager.models import ContainerJob
from container_manager.statemachine import StaleTransition, TransitionError

from .jobs import THEN, job_in, journal_of

pytestmark = pytest.mark.django_db
PAGE = Path(__file__).resolve().parent.parent / "docs/explanation/status.md"
REFUSED = (TransitionError, IntegrityError)
DONE = {"status": "completed", "launched_at": THEN, "completed_at": THEN}


def cells() -> dict[str, str]:
    """Return the last cell of each row of the table, by its path."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    return {row[0].strip(): row[-1].strip() for row in rows[2:]}


def changed(job: ContainerJob) -> ContainerJob:
    for name, value in DONE.items():
        setattr(job, name, value)
    return job


def fresh(job: ContainerJob) -> ContainerJob:
    return ContainerJob(pk=job.pk, command="true", **DONE)


def run_sql(job: ContainerJob) -> None:
    key = ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE container_manager_containerjob SET status = 'completed' WHERE id = %s", [key])


def upsert(job: ContainerJob) -> None:
    unique = ["id"] if connection.features.supports_update_conflicts_with_target else None
    ContainerJob.objects.bulk_create([fresh(job)], update_conflicts=True, update_fields=[*DONE], unique_fields=unique)


# A pending job is to become completed, or one to be created in a status that there is not.
ILLEGAL: Mapping[str, Callable[[ContainerJob], object]] = {
    "assign + save()": lambda job: changed(job).save(),
    "save(update_fields)": lambda job: changed(job).save(update_fields=[*DONE]),
    "QuerySet.update()": lambda job: ContainerJob.objects.filter(pk=job.pk).update(**DONE),
    "bulk_update(), loaded objects": lambda job: ContainerJob.objects.bulk_update([changed(job)], [*DONE]),
    "bulk_update(), fresh objects": lambda job: ContainerJob.objects.bulk_update([fresh(job)], [*DONE]),
    "raw SQL": run_sql,
    "bulk_create, odd first status": lambda _: ContainerJob.objects.bulk_create([ContainerJob(status="odd")]),
    'create(status="bogus")': lambda _: ContainerJob.objects.create(status="bogus"),
    "bulk_create(update_conflicts=True)": upsert,
    "defer() + assign + save()": lambda job: changed(ContainerJob.objects.defer("status").get(pk=job.pk)).save(),
    "Job(pk=…).save()": lambda job: fresh(job).save(),
}


def assert_refused(path: str) -> str:
    job = job_in("pending")
    with pytest.raises(REFUSED), transaction.atomic():
        ILLEGAL[path](ContainerJob.objects.get(pk=job.pk))
    assert list(ContainerJob.objects.values_list("pk", "status")) == [(job.pk, "pending")]
    assert journal_of(job) == []
    return "ok"


def admin_form() -> str:
    job, client = job_in("pending"), Client()
    client.force_login(User.objects.create_superuser("root"))
    change = reverse("admin:container_manager_containerjob_change", args=[job.pk])
    kept = {
        name: getattr(job, name)
        for name in ("command", "grace_seconds", "executor", "queue", "priority", "unique_until")
    }
    formsets = {f"{p}-{form}_FORMS": 0 for p in ("transitions", "attempts") for form in ("TOTAL", "INITIAL")}
    json = dict.fromkeys(("environment", "secrets", "labels", "container"), "{}")
    form = {**kept, **formsets, **json, "max_retries": 3, "name": "renamed", "status": "completed"}
    answer = client.post(change, form)
    job.refresh_from_db()
    assert (answer.status_code, job.status, job.name) == (302, "pending", "renamed")
    return "ok"


def winners(status: str, *targets: str) -> str:
    """Load a job once for each target, have every instance make its transition, and count those that did."""
    job = job_in(status)
    won = 0
    for instance, target in [(ContainerJob.objects.get(pk=job.pk), target) for target in targets]:
        try:
            instance.transition_to(target)
            won += 1
        except StaleTransition:
            pass
    assert len(journal_of(job)) == won
    return str(won)


def stale_save_of_another_field() -> str:
    job = job_in("pending")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_queued()
    stale.name = "renamed"
    stale.save()
    job.refresh_from_db()
    assert (job.status, job.name) == ("queued", "renamed")
    return "ok"


OTHERS: Mapping[str, Callable[[], str]] = {
    "admin form": admin_form,
    "two stale queued → running": lambda: winners("queued", "running", "running"),
    "stale completed and cancelled": lambda: winners("running", "completed", "cancelled"),
    "stale save() of another field reverts the status": stale_save_of_another_field,
}


def test_every_row_of_the_library_table_is_tried() -> None:
    assert set(cells()) == {*ILLEGAL, *OTHERS}


@pytest.mark.parametrize("path", ILLEGAL)
def test_an_illegal_transition_is_refused_on_each_path_of_the_library_table(path: str) -> None:
    assert assert_refused(path) == cells()[path]


@pytest.mark.parametrize("path", OTHERS)
def test_each_cell_of_the_library_table_is_what_happens(path: str) -> None:
    assert OTHERS[path]() == cells()[path]
