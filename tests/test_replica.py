"""Instances that were read from a replica: their row is that of the database that the router writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction

from container_manager import queue
from container_manager.models import ContainerJob
from container_manager.signals import job_transitioned
from container_manager.statemachine import InvalidTransition, MissingRow, StaleTransition
from tests.machines.models import REVIEW, Article

from .jobs import job_in, journal_of, row_of
from .primary_replica import PrimaryReplicaRouter

pytestmark = pytest.mark.django_db(transaction=True)
READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "postgresql": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}


@pytest.fixture
def replicas(settings: Any) -> Iterator[None]:
    """Reads go to connections of their own to the same database, which refuse writes."""
    for alias in ("replica", "replica2"):
        connections[alias] = connections.create_connection("default")
        with connections[alias].cursor() as cursor:
            cursor.execute(READ_ONLY[connections[alias].vendor])
    settings.DATABASE_ROUTERS = [PrimaryReplicaRouter()]
    yield
    settings.DATABASE_ROUTERS = []
    for alias in ("replica", "replica2"):
        connections[alias].close()
        del connections[alias]


@pytest.fixture
def job(replicas: None) -> ContainerJob:
    return from_replica(job_in("queued"))


def from_replica(job: ContainerJob) -> ContainerJob:
    found = ContainerJob.objects.get(pk=job.pk)
    assert found._state.db == "replica"
    return found


MOVES: dict[str, Callable[[ContainerJob], object]] = {
    "transition_to": lambda job: job.transition_to("running"),
    "mark_as": lambda job: job.mark_as_running(),
    "save": lambda job: by_save(job, "running"),
    "save(using)": lambda job: by_save(job, "running", using="default"),
    "mark_as_failed with a retry": lambda job: (job.mark_as_running(), job.mark_as_failed(should_retry=True)),
}


def by_save(job: ContainerJob, status: str, **options: Any) -> None:
    job.status = status
    job.save(**options)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_an_instance_from_a_replica_changes_state_in_the_database_that_it_is_written_to(
    job: ContainerJob, move: Callable[[ContainerJob], object]
) -> None:
    using: list[str] = []

    def receive(sender: Any, transitions: Any, using: str, sent: list[str] = using, **kwargs: Any) -> None:
        sent.append(using)

    job_transitioned.connect(receive)
    try:
        move(job)
    finally:
        job_transitioned.disconnect(receive)
    assert set(using) == {"default"}
    assert row_of(job)["status"] == job.status


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_the_second_of_two_instances_from_a_replica_to_change_state_is_stale(
    job: ContainerJob, move: Callable[[ContainerJob], object]
) -> None:
    stale = from_replica(job)
    job.mark_as_running()
    job.mark_as_failed()
    job.transition_to("retrying")
    job.mark_as_queued()
    with pytest.raises(StaleTransition):
        move(stale)
    assert row_of(job)["status"] == "queued"


def test_a_stale_save_of_the_name_from_a_replica_does_not_revert_the_status(job: ContainerJob) -> None:
    stale = from_replica(job)
    job.mark_as_running()
    job.mark_as_failed()
    stale.name = "renamed"
    stale.save()
    assert (row_of(job)["name"], row_of(job)["status"]) == ("renamed", "failed")


def test_a_stale_save_of_the_title_from_a_replica_does_not_revert_the_state_of_an_article(replicas: None) -> None:
    article = Article.objects.create()
    stale = Article.objects.get()
    article.transition_to(REVIEW)
    stale.title = "mended"
    stale.save()
    assert list(Article.objects.values_list("title", "stage")) == [("mended", REVIEW)]


def test_refresh_from_db_of_a_stale_instance_reads_the_database_that_it_is_written_to(job: ContainerJob) -> None:
    stale = from_replica(job)
    with transaction.atomic():
        job.mark_as_running()
        # The replica lags behind: it does not show what is not committed.
        assert from_replica(job).status == "queued"
        stale.refresh_from_db()
        assert stale.status == "running"
        stale.mark_as_completed()
    assert row_of(job)["status"] == "completed"


def test_a_deferred_field_read_from_another_replica_keeps_the_guard(
    job: ContainerJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = ContainerJob.objects.defer("environment").get(pk=job.pk)
    job.mark_as_running()
    monkeypatch.setattr(PrimaryReplicaRouter, "read_from", ["replica2", "replica"])
    assert stale.environment == {}
    stale.name = "renamed"
    stale.save()
    assert row_of(job)["status"] == "running"
    with pytest.raises(StaleTransition):
        stale.mark_as_cancelled()


def test_retry_of_a_job_from_a_replica_is_written_where_jobs_are_written(replicas: None) -> None:
    failed, done = from_replica(job_in("failed")), from_replica(job_in("completed"))
    assert queue.retry(failed).status == "queued"
    again = queue.retry(done)
    assert (again._state.db, again.origin) == ("default", done.pk)


def test_bulk_writes_of_instances_from_a_replica_leave_them_usable(job: ContainerJob) -> None:
    job.status, job.launched_at = "running", job.created_at
    job.queued_at = None
    assert ContainerJob.objects.bulk_update([job], ["status", "launched_at"]) == 1
    assert ContainerJob.objects.filter(pk=job.pk).transition_to("failed").changed == 1
    with pytest.raises(StaleTransition):
        job.mark_as_completed()
    assert journal_of(job) == [("queued", "running"), ("running", "failed")]


def test_an_illegal_step_of_an_instance_from_a_replica_is_refused_by_the_map(job: ContainerJob) -> None:
    with pytest.raises(InvalidTransition):
        by_save(job, "completed")


def test_a_job_from_a_replica_that_is_gone_is_not_inserted_again_by_a_save(job: ContainerJob) -> None:
    ContainerJob.objects.filter(pk=job.pk).delete()
    with pytest.raises(MissingRow):
        job.save()
    job.save(force_insert=True)
    assert row_of(job)["status"] == "queued"


def test_a_save_of_one_field_keeps_what_an_instance_from_a_replica_was_loaded_with(job: ContainerJob) -> None:
    job.name = "first"
    job.save(update_fields=["name"])
    job_elsewhere = ContainerJob.objects.using("default").get(pk=job.pk)
    job_elsewhere.mark_as_cancelled()
    job.status = "running"
    with pytest.raises(StaleTransition):
        job.save()
    job_elsewhere.delete()
    job.status, job.name = "queued", "second"
    with pytest.raises(MissingRow):
        job.save()
    assert not ContainerJob.objects.using("default").filter(pk=job.pk).exists()
