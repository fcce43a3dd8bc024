"""The queue's functions ask the database routers where no database is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Model
from django.test import override_settings
from django.utils import timezone

from container_manager import queue
from container_manager.models import ContainerJob, PausedQueue

from .jobs import columns_for

pytestmark = pytest.mark.django_db(databases=["default", "other"])


class JobsElsewhere:
    """Jobs are in the database ``other``."""

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return "other"

    db_for_read = db_for_write


class ReadsElsewhere:
    """As where ``other`` is a replica of ``default``."""

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return "default"

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return "other"


@pytest.fixture
def jobs_elsewhere() -> Iterator[None]:
    with override_settings(DATABASE_ROUTERS=[JobsElsewhere()]):
        yield


def counts() -> tuple[int, int]:
    """Return how many jobs each database has."""
    return ContainerJob.objects.using("default").count(), ContainerJob.objects.using("other").count()


@pytest.mark.usefixtures("jobs_elsewhere")
def test_jobs_are_enqueued_in_the_database_of_the_routers_unless_another_is_named() -> None:
    assert queue.enqueue(command="true")._state.db == "other"
    queue.enqueue_many([ContainerJob(command="true")])
    assert counts() == (0, 2)
    queue.enqueue(command="true", using="default")
    assert counts() == (1, 2)


@pytest.mark.usefixtures("jobs_elsewhere")
def test_queues_are_paused_in_the_database_of_the_routers() -> None:
    assert queue.pause_queue("slow")
    assert list(PausedQueue.objects.using("other").values_list("name", flat=True)) == ["slow"]
    assert queue.paused_queues() == ["slow"]
    assert queue.resume_queue("slow")
    assert queue.paused_queues() == []


@pytest.mark.usefixtures("jobs_elsewhere")
def test_jobs_are_counted_and_pruned_in_the_database_of_the_routers() -> None:
    queue.enqueue(command="true", queue="far").mark_as_cancelled()
    assert queue.queue_statistics()["far"].finished == {"cancelled": 1}
    assert queue.prune_jobs(before=timezone.now() + timedelta(days=1)) == 1
    assert counts() == (0, 0)


def test_a_finished_job_that_was_read_from_a_replica_is_retried_in_the_primary_database() -> None:
    found = ContainerJob.objects.using("other").create(command="true", status="completed", **columns_for("completed"))
    with override_settings(DATABASE_ROUTERS=[ReadsElsewhere()]):
        again = queue.retry(found)
        assert (again._state.db, again.status, again.origin) == ("default", "queued", found.pk)


def test_statistics_are_read_from_the_database_for_reads() -> None:
    queue.enqueue(command="true", queue="copied", using="other")
    with override_settings(DATABASE_ROUTERS=[ReadsElsewhere()]):
        assert queue.queue_statistics()["copied"].queued == 1
