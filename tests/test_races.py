"""Writers that race for one row, each in a thread with a connection of its own.

All instances are loaded before the first barrier opens, so each writer believes what it has loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection, connections, transaction
from django.db.models import QuerySet
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from container_manager.models import ContainerJob, JobTransition, Worker
from container_manager.signals import job_transitioned
from container_manager.statemachine import StaleTransition

from .jobs import columns_for, job_in, journal_of, row_of
from .polling import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)

Move = Callable[[ContainerJob], object]
# One row of outcomes per trial: for each writer None, where it won, or what it was told.
Outcomes = list[list[StaleTransition | None]]

_TRIALS_PER_LEVEL = 30


def transition(target: str) -> Move:
    return lambda job: job.transition_to(target)


def save(target: str) -> Move:
    def move(job: ContainerJob) -> None:
        job.status = target
        job.save()

    return move


def bulk(target: str) -> Move:
    def move(job: ContainerJob) -> None:
        result = ContainerJob.objects.filter(pk=job.pk, status=job.status).transition_to(target)
        assert result.refused == {}
        if not result.changed:
            raise StaleTransition(pk=job.pk, expected=job.status, found=row_of(job)["status"])

    return move


trials = pytest.mark.parametrize("trials", [30, pytest.param(500, marks=pytest.mark.slow)])


def names_of(ways: Sequence[Callable[[str], Move]]) -> str:
    return "_and_".join(way.__name__ for way in ways)


def jobs_in(status: str, count: int) -> QuerySet[ContainerJob]:
    columns = columns_for(status)
    ContainerJob.objects.bulk_create(ContainerJob(command="true", status=status, **columns) for _ in range(count))
    return ContainerJob.objects.order_by("pk")


def race(jobs: QuerySet[ContainerJob], moves: Sequence[Move], *, prepare: Callable[[], object] = bool) -> Outcomes:
    """Let all moves meet at each job in turn; ``prepare`` runs once in each thread."""
    copies = [list(jobs.all()) for _ in moves]
    outcomes: Outcomes = [[None] * len(moves) for _ in copies[0]]
    barrier = Barrier(len(moves), timeout=PATIENCE_SECONDS)

    def write(writer: int) -> None:
        try:
            prepare()
            for trial, job in enumerate(copies[writer]):
                barrier.wait()
                try:
                    moves[writer](job)
                except StaleTransition as refusal:
                    outcomes[trial][writer] = refusal
        except BaseException:
            barrier.abort()
            raise
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(moves)) as pool:
        for future in [pool.submit(write, writer) for writer in range(len(moves))]:
            future.result()
    return outcomes


def assert_one_winner(
    jobs: QuerySet[ContainerJob], start: str, outcomes: Outcomes, targets: Sequence[str], *, found: bool = True
) -> None:
    """Check that each job went one way once, that its journal says so, and that all others were told what is so.

    ``found`` says whether they were told the status, too.
    """
    journal: dict[object, list[tuple[str, str]]] = defaultdict(list)
    for row in JobTransition.objects.order_by("pk"):
        journal[row.job_id].append((row.from_status, row.to_status))
    for job, trial in zip(jobs.all(), outcomes, strict=True):
        assert [target for target, refusal in zip(targets, trial, strict=True) if refusal is None] == [job.status]
        assert journal[job.pk] == [(start, job.status)]
        told = [(type(refusal), refusal.expected, refusal.found) for refusal in trial if refusal is not None]
        assert told == [(StaleTransition, start, job.status if found else None)] * (len(targets) - 1)


@trials
@pytest.mark.parametrize("ways", [(transition, transition), (save, save), (transition, bulk)], ids=names_of)
@pytest.mark.parametrize(
    ("start", "targets"),
    [("running", ["completed", "cancelled"]), ("failed", ["retrying", "cancelled"])],
    ids=["complete_or_cancel", "retry_or_cancel"],
)
def test_of_two_racing_transitions_one_wins_and_the_other_is_stale(
    start: str, targets: list[str], ways: Sequence[Callable[[str], Move]], trials: int
) -> None:
    jobs = jobs_in(start, trials)
    outcomes = race(jobs, [way(target) for way, target in zip(ways, targets, strict=True)])
    assert_one_winner(jobs, start, outcomes, targets)


@trials
def test_of_eight_racing_claims_one_wins(trials: int) -> None:
    jobs = jobs_in("queued", trials)
    outcomes = race(jobs, [transition("running"), save("running")] * 4)
    assert_one_winner(jobs, "queued", outcomes, ["running"] * 8)


# SNAPSHOT is what MariaDB from 11.6 on does unasked: innodb_snapshot_isolation.
_LEVELS = {
    "postgresql": ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"],
    "mysql": ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "SNAPSHOT"],
}
levels = pytest.mark.parametrize("level", _LEVELS.get(connection.vendor, ["SERIALIZABLE"]))
ways = pytest.mark.parametrize("way", [transition, save], ids=["transition", "save"])
beside_others = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time: there is nobody beside it"
)


def set_level(level: str) -> None:
    """Set the isolation of this thread's connection until it is closed."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT set_config('default_transaction_isolation', %s, false)", [level.lower()])
        elif level == "SNAPSHOT":
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SET SESSION innodb_snapshot_isolation = ON")
        elif connection.vendor == "mysql":
            cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")


def gives_up(level: str) -> bool:
    """Tell whether the database ends the transaction of the second writer, instead of letting it look again."""
    return level == "SNAPSHOT" or (connection.vendor == "postgresql" and level != "READ COMMITTED")


@levels
@ways
def test_the_loser_of_a_race_is_stale_at_every_isolation_level(way: Callable[[str], Move], level: str) -> None:
    targets = ["completed", "cancelled", "failed", "completed"]
    jobs = jobs_in("running", _TRIALS_PER_LEVEL)
    outcomes = race(jobs, [way(target) for target in targets], prepare=lambda: set_level(level))
    assert_one_winner(jobs, "running", outcomes, targets)


@beside_others
@levels
@ways
def test_the_loser_of_a_race_inside_a_transaction_is_stale(way: Callable[[str], Move], level: str) -> None:
    targets = ["completed", "cancelled", "failed", "completed"]
    gate = Barrier(len(targets), timeout=PATIENCE_SECONDS)

    def inside(target: str) -> Move:
        def move(job: ContainerJob) -> None:
            with transaction.atomic():
                Worker.objects.exists()  # takes the snapshot
                gate.wait()
                way(target)(job)

        return move

    jobs = jobs_in("running", _TRIALS_PER_LEVEL)
    outcomes = race(jobs, [inside(target) for target in targets], prepare=lambda: set_level(level))
    assert_one_winner(jobs, "running", outcomes, targets, found=not gives_up(level))


@pytest.fixture
def strict() -> Iterator[str]:
    """Give this thread's connection an isolation that ends the transaction of a second writer."""
    level = "SNAPSHOT" if connection.vendor == "mysql" else "REPEATABLE READ"
    set_level(level)
    yield level
    connection.close()


@beside_others
@ways
def test_a_transaction_aborted_by_a_conflict_cannot_be_committed(way: Callable[[str], Move], strict: str) -> None:
    mine, contested = job_in("pending"), job_in("queued")
    seen: list[object] = []

    def receive(**event: object) -> None:
        seen.append(event["transitions"])

    job_transitioned.connect(receive)
    try:
        with transaction.atomic():
            Worker.objects.exists()  # takes the snapshot
            mine.mark_as_queued()
            move_elsewhere(contested, transition("cancelled"), strict)
            seen.clear()
            with pytest.raises(StaleTransition, match="roll back and try again"):
                way("running")(contested)
            with pytest.raises(TransactionManagementError):
                ContainerJob.objects.exists()
    finally:
        job_transitioned.disconnect(receive)
    assert (row_of(mine)["status"], row_of(contested)["status"]) == ("pending", "cancelled")
    assert (journal_of(mine), seen) == ([], [])


@pytest.mark.skipif(connection.vendor != "postgresql", reason="MariaDB ends the whole transaction, SQLite has no other")
@ways
def test_a_conflict_inside_a_savepoint_rolls_back_only_the_savepoint(way: Callable[[str], Move], strict: str) -> None:
    mine, contested = job_in("pending"), job_in("queued")
    with transaction.atomic():
        mine.mark_as_queued()
        move_elsewhere(contested, transition("cancelled"), strict)
        with pytest.raises(StaleTransition), transaction.atomic():
            way("running")(contested)
    assert (row_of(mine)["status"], row_of(contested)["status"]) == ("queued", "cancelled")


@beside_others
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@ways
def test_a_transition_does_not_wait_for_locks_on_other_jobs(way: Callable[[str], Move], level: str) -> None:
    set_level(level)
    mine, others = job_in("pending"), [job_in("queued") for _ in range(3)]
    with transaction.atomic():
        way("running")(mine)
        for job in others:
            move_elsewhere(job, way("cancelled"), level)
    connection.close()
    assert {row_of(job)["status"] for job in others} == {"cancelled"}


@pytest.mark.skipif(connection.vendor != "mysql", reason="others do not lock what they read of an index")
@ways
def test_a_transition_finds_its_row_by_the_primary_key(way: Callable[[str], Move]) -> None:
    job = job_in("pending")
    with CaptureQueriesContext(connection) as queries:
        way("running")(job)
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {queries.captured_queries[0]['sql']}")
            plan = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
    assert plan["key"] == "PRIMARY"


def move_elsewhere(job: ContainerJob, move: Move, level: str) -> None:
    """Move a job from another connection, and wait until that is committed."""

    def act() -> None:
        try:
            set_level(level)
            if connection.vendor == "mysql":
                with connection.cursor() as cursor:
                    cursor.execute("SET SESSION innodb_lock_wait_timeout = 2")
            move(ContainerJob.objects.get(pk=job.pk))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(act).result()
