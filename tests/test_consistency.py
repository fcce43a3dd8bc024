"""The doctor's statements find what its words say: each kind of problem, in ranges, since a time, in few statements."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from django.utils import timezone

from container_manager.models import ContainerJob, JobTransition, Worker
from container_manager.store import consistency, register_worker
from container_manager.store.consistency import Diagnosis, attempt_problems, examine, journal_problems

from .jobs import STATUSES, THEN, job_in

pytestmark = pytest.mark.django_db


def random_job(chance: random.Random) -> None:
    """Create a job whose row, journal and attempts fit each other, or not."""
    status = chance.choice(STATUSES)
    number = chance.choice([0, 1, 2])
    worker = chance.choice(["", "alive", "gone"])
    job = job_in(status, attempt=number, worker=worker)
    path = ["pending", "queued", *(["running", "failed", "retrying", "queued"] * max(0, number - 1)), "running", status]
    path = path[: chance.choice([0, 2, 3, len(path), len(path), len(path)])]
    edges = [(a, b) for a, b in pairwise(path) if a != b]
    for _ in range(chance.choice([0, 0, 0, 1])):
        edges.insert(chance.randint(0, len(edges)), (chance.choice(STATUSES), chance.choice(STATUSES)))
    for source, target in edges:
        job.transitions.create(from_status=source, to_status=target, at=THEN)
    numbers = [n for n in range(chance.choice([1, 1, 1, 0]), number + 1) if chance.random() < 0.9]
    for each in numbers:
        ended = each < number or chance.random() < 0.7
        job.attempts.create(
            number=each,
            worker=chance.choice(["alive", "gone"]),
            executor="default",
            launched_at=THEN,
            finished_at=THEN if ended else None,
        )


def in_words() -> list[str]:
    """Return the problems as the functions that say them find them, job by job."""
    found = []
    for job in ContainerJob.objects.order_by("pk"):
        history, attempts = list(job.transitions.order_by("id")), list(job.attempts.order_by("number"))
        words = [*journal_problems(job, history), *attempt_problems(job, attempts, history, ["alive"])]
        found += [f"{job.pk}: {text}" for text in words]
    return found


def register_alive() -> None:
    worker = Worker(id="alive", host="h", pid=1, lease_expires_at=timezone.now())
    register_worker(worker, lease_seconds=3600, using="default")


@pytest.mark.parametrize("seed", range(4))
def test_the_consistency_statements_find_exactly_the_problems_that_reading_every_row_finds(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_alive()
    chance = random.Random(seed)  # noqa: S311  # repeatable
    for _ in range(60):
        random_job(chance)
    monkeypatch.setattr(consistency, "_RANGE", 7)
    expected = in_words()
    kinds = ("no edge", "breaks", "ends at", "are numbered", "the last attempt", "came to", "it runs", "has no lease")
    assert [kind for kind in kinds if not any(kind in text for text in expected)] == []
    diagnosis = examine()
    assert sorted(diagnosis.problems) == sorted(expected)
    assert diagnosis.jobs.total() == 60
    assert diagnosis.transitions == JobTransition.objects.count()
    # Every job has changed since then, or has no journal; open attempts come in any case.
    since = examine(since=THEN - timedelta(days=1)).problems
    with_more_than_a_row = [text for text in expected if has_journal_or_open_attempt(text)]
    assert sorted(since) == sorted(with_more_than_a_row)


def has_journal_or_open_attempt(problem: str) -> bool:
    job = ContainerJob.objects.get(pk=problem.partition(":")[0])
    return job.transitions.exists() or job.attempts.filter(finished_at=None).exists()


@pytest.mark.parametrize("count", [7, 14, 15])
def test_each_job_is_in_one_range_and_progress_says_how_many_were_examined(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(count):
        job_in("queued")
    monkeypatch.setattr(consistency, "_RANGE", 7)
    told: list[tuple[int, int | None]] = []
    assert examine(progress=lambda done, total: told.append((done, total))).jobs == {"queued": count}
    assert told[0] == (7, count)
    assert told[-1] == (count, count)


def test_thousands_of_jobs_are_examined_in_a_few_statements(django_assert_max_num_queries: Callable) -> None:
    ContainerJob.objects.bulk_create([ContainerJob(command="true") for _ in range(2000)])
    with django_assert_max_num_queries(6):
        assert examine().jobs == {"pending": 2000}


class TestSince:
    def changed(self, *at: timedelta) -> UUID:
        """Return a failed job whose journal breaks, with entries made so long ago."""
        job, now = job_in("failed"), timezone.now()
        for ago in at:
            job.transitions.create(from_status="queued", to_status="running", at=now - ago)
        return job.pk

    def found(self, diagnosis: Diagnosis) -> set[UUID]:
        return {UUID(problem.split(":")[0]) for problem in diagnosis.problems}

    @pytest.mark.shows("explanation/worker.md#is-everything-consistent")
    def test_only_jobs_that_have_changed_since_then_are_examined_each_once(self) -> None:
        old = self.changed(timedelta(days=9), timedelta(days=8))
        both = self.changed(timedelta(days=3), timedelta(hours=2), timedelta(hours=1))
        late = self.changed(timedelta(minutes=90))
        diagnosis = examine(since=timezone.now() - timedelta(hours=3))
        assert self.found(diagnosis) == {both, late}
        assert (diagnosis.jobs, diagnosis.transitions) == ({"failed": 2}, 4)
        assert self.found(examine(since=timezone.now())) == set()
        assert self.found(examine()) == {old, both, late}

    def test_a_job_with_an_open_attempt_is_examined_however_old_it_is_and_once(self) -> None:
        for ago in (timedelta(days=9), timedelta(hours=1)):
            job = ContainerJob.objects.get(pk=self.changed(ago))
            job.attempts.create(number=1, worker="gone", executor="default", launched_at=THEN)
        diagnosis = examine(since=timezone.now() - timedelta(hours=3))
        assert (diagnosis.jobs, diagnosis.attempts) == ({"failed": 2}, 2)

    def test_the_first_journal_entry_is_found_in_few_queries_when_many_were_pruned(
        self, django_assert_max_num_queries: Callable
    ) -> None:
        job, now = job_in("queued"), timezone.now()
        entries = [
            JobTransition(id=key, job=job, from_status="pending", to_status="queued", at=now - timedelta(days=ago))
            for key, ago in [(5, 9), (1_000_000, 8), (1_000_001, 7), (900_000_000, 1), (900_000_001, 0)]
        ]
        JobTransition.objects.bulk_create(entries)
        with django_assert_max_num_queries(40):
            assert consistency._first_entry(now - timedelta(days=3), 900_000_001, "default") > 1_000_001
        assert consistency._first_entry(now - timedelta(days=10), 900_000_001, "default") <= 5
