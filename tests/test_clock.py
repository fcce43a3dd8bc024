"""One clock, the database's: a worker, or a command, on a host whose clock is wrong decides nothing by it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.models import ContainerJob, Worker
from container_manager.querysets import DatabaseNow
from container_manager.store import Lease
from container_manager.store.sql import store_sql
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.maintenance import Maintenance
from container_manager.worker.sightings import LeaseWatch, Sightings

from .jobs import row_of
from .protocol.records import register

pytestmark = pytest.mark.django_db
_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_REAL_NOW = timezone.now


@pytest.fixture(params=[_HOUR, -_HOUR], ids=["an hour fast", "an hour slow"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """The clock of this host is wrong."""
    shift: timedelta = request.param
    monkeypatch.setattr(timezone, "now", lambda: _REAL_NOW() + shift)
    return shift


def ended(*, ago: timedelta, status: str = "completed", **values: Any) -> ContainerJob:
    """Return a job that ended some time ago, by the database's clock."""
    job = queue.enqueue(command="true")
    store.claim(worker="w", executors=["default"], only=job.pk, limit=1, using="default")
    store.finish([store.Outcome(job_id=job.pk, attempt=1, status=status, **values)], worker="w", using="default")
    move(job, status_changed_at=ago)
    return job


def move(job: ContainerJob, **columns: timedelta) -> None:
    """Set columns to times that long ago, by the database's clock."""
    values = [f"{name} = {store_sql(connection).after('%s')}" for name in columns]
    key = ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE container_manager_containerjob SET {', '.join(values)} WHERE id = %s",
            [*(-ago.total_seconds() for ago in columns.values()), key],
        )


def maintain(settings: AppSettings) -> None:
    register("maintainer")
    Maintenance(settings, using="default").run("maintainer", {}, retries_are_due=True)


def test_the_databases_time_is_the_present() -> None:
    assert abs(store.database_now(using="default") - timezone.now()) < _MINUTE


@pytest.mark.usefixtures("wrong_clock")
@pytest.mark.shows("explanation/worker.md#clocks")
class TestHostWithWrongClock:
    def test_a_host_with_a_wrong_clock_prunes_by_the_databases_clock(self) -> None:
        new, old = ended(ago=10 * _MINUTE), ended(ago=50 * _MINUTE)
        maintain(AppSettings(prune_after_seconds=1800.0))
        assert list(ContainerJob.objects.all()) == [new]
        ended(ago=50 * _MINUTE)
        call_command("container", "prune", "--days", str(30 / 60 / 24), stdout=StringIO())
        assert list(ContainerJob.objects.all()) == [new]
        assert old.pk != new.pk

    def test_a_host_with_a_wrong_clock_queues_retries_by_the_databases_clock(self) -> None:
        early, due = (ended(ago=_MINUTE, status="failed", reason="error", retry_after_seconds=s) for s in (1800, -1))
        maintain(AppSettings())
        assert (row_of(early)["status"], row_of(due)["status"]) == ("retrying", "queued")
        # Also their place in the queue, and the journal, are by it.
        times = [row_of(due)["queued_at"], row_of(due)["status_changed_at"], due.transitions.latest("id").at]
        assert all(abs(at - _REAL_NOW()) < _MINUTE for at in times)

    def test_a_host_with_a_wrong_clock_counts_statistics_by_the_databases_clock(self) -> None:
        ended(ago=10 * _MINUTE)
        ended(ago=50 * _MINUTE)
        later, due = (queue.enqueue(command="true") for _ in range(2))
        move(later, scheduled_for=-30 * _MINUTE)
        move(due, scheduled_for=_MINUTE)
        found = queue.queue_statistics(since=30 * _MINUTE)["default"]
        assert (found.queued, found.scheduled, found.finished) == (1, 1, {"completed": 1})
        assert list(ContainerJob.objects.ready()) == [due]

    def test_a_host_with_a_wrong_clock_shows_how_long_a_status_lasts_by_the_databases_clock(self) -> None:
        ended(ago=50 * _MINUTE)
        out = StringIO()
        call_command("container", "ps", "--all", stdout=out)
        [seconds] = [int(word) for word in out.getvalue().splitlines()[1].split() if word.isdigit() and len(word) == 4]
        assert 3000 <= seconds < 3060

    def test_a_delay_of_submit_counts_from_the_databases_time(self) -> None:
        call_command("container", "submit", "--delay", "1800", "true", stdout=StringIO())
        assert abs(ContainerJob.objects.get().scheduled_for - _REAL_NOW() - 30 * _MINUTE) < _MINUTE

    def test_a_worker_on_a_host_with_a_wrong_clock_starts_by_the_databases_clock_so_the_oldest_worker_maintains(
        self, wrong_clock: timedelta
    ) -> None:
        for name in ("first", "second"):
            row = Worker(id=name, host="h", pid=1, lease_expires_at=_REAL_NOW(), started_at=_REAL_NOW())
            if name == "second":
                row.started_at += wrong_clock
            store.register_worker(row, lease_seconds=30.0, using="default")
        assert store.live_workers(using="default") == ["first", "second"]
        assert all(abs(worker.started_at - _REAL_NOW()) < _MINUTE for worker in Worker.objects.all())

    def test_a_host_with_a_wrong_clock_tells_live_workers_from_dead_ones(self) -> None:
        register("alive", executors=("docker",))
        register("dead", executors=("gpu",), lease_seconds=-60.0)
        jobs = [queue.enqueue(command="true", executor=name) for name in ("docker", "gpu")]
        for job in jobs:
            move(job, queued_at=10 * _MINUTE)
        found = store.unschedulable_jobs(executors=["default"], queues=None, older_than_seconds=300.0, using="default")
        assert [job for job, _, _ in found] == [jobs[1].pk]


class TestDatabaseClockJumps:
    @staticmethod
    def leases(*workers: str) -> Sequence[Lease]:
        found = store.other_leases(worker="me", using="default")
        assert {lease.worker for lease in found} == set(workers)
        return found

    @staticmethod
    def jump() -> None:
        """Let all leases be an hour older: for them the clock has jumped ahead."""
        for worker in Worker.objects.all():
            store.renew_lease(worker.id, lease_seconds=-3600.0, using="default")

    @pytest.mark.shows("explanation/worker.md#clocks")
    def test_after_a_jump_of_the_databases_clock_a_worker_lets_others_renew_their_leases_first(self) -> None:
        register("alive")
        job = queue.enqueue(command="true")
        store.claim(worker="alive", executors=["default"], limit=1, using="default")
        loop = WorkerLoop(settings=AppSettings(), executors={}, options=WorkerOptions())
        assert loop._register()
        self.jump()
        loop._do_maintenance()
        assert store.renew_lease("alive", lease_seconds=30.0, using="default")
        assert row_of(job)["worker"] == "alive"
        store.renew_lease("alive", lease_seconds=-1.0, using="default")
        loop._do_maintenance()
        age(loop._rescuer._watch._sightings, 15.0)
        loop._do_maintenance()
        assert (row_of(job)["status"], row_of(job)["failure_reason"]) == ("retrying", "lost")

    def test_a_worker_that_renews_its_lease_after_a_jump_of_the_databases_clock_is_not_dead(self) -> None:
        register("alive")
        register("dead")
        watch = LeaseWatch(30.0)
        assert watch.dead(self.leases("alive", "dead")) == []
        self.jump()
        assert watch.dead(self.leases("alive", "dead")) == []
        store.renew_lease("alive", lease_seconds=60.0, using="default")
        age(watch._sightings, 15.0)
        assert watch.dead(self.leases("alive", "dead")) == ["dead"]

    def test_a_worker_that_was_watched_until_its_lease_expired_is_dead_at_once(self) -> None:
        register("dead", lease_seconds=-0.001)
        watch = LeaseWatch(600.0)
        assert watch.dead(self.leases("dead")) == []
        age(watch._sightings, 150.0)
        assert watch.dead(self.leases("dead")) == []
        age(watch._sightings, 150.0)
        assert watch.dead(self.leases("dead")) == ["dead"]

    def test_a_lease_that_has_not_expired_keeps_its_worker_alive_however_old_it_is(self) -> None:
        register("slow", lease_seconds=600.0)
        watch = LeaseWatch(30.0)
        watch.dead(self.leases("slow"))
        age(watch._sightings, 500.0)
        assert watch.dead(self.leases("slow")) == []
        Worker.objects.all().delete()
        assert watch.dead(self.leases()) == []

    def test_a_worker_that_was_not_watched_for_a_while_gets_time_to_renew_its_lease(self) -> None:
        sightings = Sightings[str](gap_seconds=600.0)
        sightings.look(["a"])
        age(sightings, 60.0)
        assert sightings.look(["a"])["a"] >= 60.0
        sightings._looked_at -= 601.0  # as after an outage of the database
        assert sightings.look(["a"]) == {"a": 0.0}

    def test_a_lease_that_is_renewed_after_it_was_read_is_not_deleted(self) -> None:
        register("late", lease_seconds=60.0)
        assert not store.delete_expired_worker("late", using="default")
        assert Worker.objects.filter(pk="late").exists()


def age(sightings: Sightings[Any], seconds: float) -> None:
    """Let what was seen have been there for so much longer."""
    sightings._since = {thing: since - seconds for thing, since in sightings._since.items()}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the texts of SQLite")
@pytest.mark.parametrize("moment", ["2026-11-29 10:00:05", "2026-11-29 10:00:05.120"])
def test_a_time_that_sqlite_has_written_equals_what_is_read_back(moment: str) -> None:
    """It compares texts: by another form of a whole second, the statistics took what they had counted for replaced."""
    sql = store_sql(connection)
    with connection.cursor() as cursor:
        for text in (sql.now, sql.after("0"), sql.dialect.now):
            cursor.execute("SELECT " + text.replace("'now'", f"'{moment}'"))
            written = cursor.fetchone()[0]
            read = connection.ops.get_db_converters(DatabaseNow())[0](written, DatabaseNow(), connection)
            assert written == connection.ops.adapt_datetimefield_value(read)
            assert read.replace(tzinfo=None) == datetime.fromisoformat(moment)
