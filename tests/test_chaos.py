"""The chaos test's own parts: which disturbance comes, and a verdict that finds what is wrong.

A run of it takes minutes: `make chaos`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from container_manager import queue, store
from container_manager.models import ContainerJob

from .chaos.engines import Processes
from .chaos.jobs import GUESSING, output_of
from .chaos.schedule import Schedule
from .chaos.verdict import problems_of


def chance() -> random.Random:
    return random.Random(1)  # noqa: S311  # disturbances, not secrets


class EnginesOfHosts(Processes):
    def hosts_by_engine(self) -> dict[str, str]:
        return {"engine-a": "host-a", "engine-b": "host-b"}


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    return tmp_path


def completed(*, name: str = "quick", worker: str = "host-a-1", engine: str = "") -> ContainerJob:
    job: ContainerJob = queue.enqueue(command="true", name=name)
    engines = {"default": engine} if engine else {}
    store.claim(worker=worker, executors=["default"], engines=engines, limit=1, using="default")
    entry = store.LogEntry(sequence=0, stream="stdout", data=output_of(str(job.pk), 1))
    store.store_logs([store.LogChange(job_id=job.pk, attempt=1, entries=[entry])], worker=worker, using="default")
    outcome = store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)
    store.finish([outcome], worker=worker, using="default")
    return job


def verdict(effects: Path, *, hosts: bool = False, jobs: int = 1) -> list[str]:
    engine = (EnginesOfHosts if hosts else Processes)(effects, chance())
    problems, _ = problems_of(jobs, effects, engine)
    return problems


@pytest.mark.django_db(transaction=True)
class TestVerdict:
    def test_a_job_that_ran_once_and_reported_it_is_no_problem(self, effects: Path) -> None:
        (effects / str(completed().pk)).write_text("1 starts in  at 1.0\n1 goes on\n")
        assert verdict(effects) == []

    @pytest.mark.parametrize(
        ("written", "problem"),
        [
            ("1 starts in  at 1.0\n2 starts in  at 2.0\n2 goes on\n", "ran as attempt 2, which nobody knows"),
            ("1 starts in  at 1.0\n1 starts in  at 2.0\n1 goes on\n", "attempt 1 ran more than once"),
            ("1 starts in  at 1.0\n2 starts in  at 2.0\n1 goes on\n", "an attempt went on beside a later one"),
            (None, "is completed and never ran"),
        ],
    )
    def test_what_a_job_has_written_must_agree_with_its_attempts(
        self, effects: Path, written: str | None, problem: str
    ) -> None:
        job = completed()
        if written is not None:
            (effects / str(job.pk)).write_text(written)
        assert any(problem in found for found in verdict(effects))

    def test_a_missing_job_or_output_of_another_job_is_a_problem(self, effects: Path) -> None:
        job = completed(name=f"{GUESSING}-1")
        (effects / str(job.pk)).write_text("1 starts in  at 1.0\n1 goes on\n")
        (log,) = job.attempts.get().logs.all()
        log.data = output_of("another", 1)
        log.save()
        text = "\n".join(verdict(effects, jobs=2))
        assert "2 jobs were made, 1 are there" in text
        assert "although it ends with 7" in text
        assert "has the output b'attempt 1 of another" in text

    def test_an_attempt_that_was_judged_from_another_host_is_a_problem(self, effects: Path) -> None:
        jobs = [completed(worker="host-a-1", engine="engine-a"), completed(worker="host-a-1", engine="engine-b")]
        for job in jobs:
            (effects / str(job.pk)).write_text("1 starts in  at 1.0\n1 goes on\n")
        assert [found.split(":")[0] for found in verdict(effects, hosts=True, jobs=2)] == [str(jobs[1].pk)]


@pytest.mark.without_database
class TestSchedule:
    def test_each_disturbance_happens_however_small_its_weight(self) -> None:
        schedule = Schedule({"often": 1e9, "seldom": 1e-9}, chance())
        while schedule.missing:
            schedule.note(schedule.draw())
        assert set(schedule.happened) == {"often", "seldom"}

    def test_a_lasting_disturbance_counts_as_happened_at_its_end_and_is_not_preferred_before(self) -> None:
        schedule = Schedule({"often": 1e9, "lasting": 1e-9}, chance())
        schedule.begin("lasting")
        assert schedule.missing == ["often", "lasting"]
        assert {schedule.draw() for _ in range(50)} == {"often"}
        schedule.note("lasting")
        assert schedule.missing == ["often"]
