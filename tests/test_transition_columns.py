"""Every way to a status writes the same columns: what differs is only what a worker alone knows of its attempt."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from container_manager import queue, store
from container_manager.models import ContainerJob, JobAttempt, JobStatus
from container_manager.statemachine.machine import machine_of

from .jobs import LEGAL, STATUSES, THEN, columns_for, row_of

pytestmark = pytest.mark.django_db

WORKER = "worker"
# What a job may have left of an earlier attempt, or of its worker, in any status.
LEFT_OVER: Mapping[str, Any] = {
    "worker": WORKER,
    "attempt": 1,
    "exit_code": 9,
    "failure_reason": "oom",
    "last_error": "left over",
    "scheduled_for": THEN,
    "retry_count": 1,
    "status_changed_at": THEN,
    "status_changed_by": "earlier",
    "status_changed_reason": "left over",
    "status_version": 5,
}
NOW = "the time of the transition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to a status. ``own`` are the columns that it alone knows; ``sources`` from where it leads (None: any)."""

    move: Callable[[ContainerJob], object]
    own: frozenset[str] = frozenset()
    sources: tuple[str, ...] | None = None


def job_with_left_overs(status: str) -> ContainerJob:
    """Return a job in a status, as its first attempt's worker holds or has left it."""
    columns = {**columns_for(status), "launched_at": THEN if status not in ("pending", "queued") else None}
    job = ContainerJob.objects.create(command="true", status=status, **columns, **LEFT_OVER)
    JobAttempt.objects.create(job=job, number=1, worker=WORKER, executor="default", launched_at=THEN)
    return job


def by_assignment(target: str) -> Callable[[ContainerJob], object]:
    def move(job: ContainerJob) -> None:
        job.status = target
        job.save()

    return move


def by_prepared_transition(target: str) -> Callable[[ContainerJob], object]:
    def move(job: ContainerJob) -> None:
        job.transition_to(target, save=False)
        job.save()

    return move


def by_finish(**outcome: Any) -> Callable[[ContainerJob], object]:
    def move(job: ContainerJob) -> None:
        outcomes = [store.Outcome(job_id=job.pk, attempt=1, **outcome)]
        assert store.finish(outcomes, worker=WORKER, using="default") == {(job.pk, 1)}

    return move


def by_claim(job: ContainerJob) -> None:
    (claimed,) = store.claim(worker="next", executors=["default"], only=job.pk, limit=1, using="default")
    assert claimed.id == job.pk


def by_promotion(job: ContainerJob) -> None:
    assert store.promote_retries(using="default") == 1


# Of an attempt that ended, only its worker knows how.
_ENDED = frozenset({"exit_code", "failure_reason", "last_error", "status_changed_by", "status_changed_reason"})
_STARTED = frozenset({"worker", "attempt", "status_changed_by"})
HELPERS = {
    "queued": ContainerJob.mark_as_queued,
    "running": ContainerJob.mark_as_running,
    "completed": ContainerJob.mark_as_completed,
    "failed": ContainerJob.mark_as_failed,
    "cancelled": ContainerJob.mark_as_cancelled,
}
OF_WORKERS: dict[str, dict[str, Way]] = {
    "queued": {
        "promotion": Way(move=by_promotion, sources=("retrying",), own=frozenset({"status_changed_reason"})),
    },
    "running": {"claim": Way(move=by_claim, own=_STARTED, sources=("queued",))},
    "completed": {"finish": Way(move=by_finish(status="completed", exit_code=0), own=_ENDED)},
    "failed": {"finish": Way(move=by_finish(status="failed", exit_code=1, reason="error", message="no"), own=_ENDED)},
}


def ways_to(target: str) -> dict[str, Way]:
    ways = {
        "transition_to": Way(move=lambda job: job.transition_to(target)),
        "prepared transition_to": Way(move=by_prepared_transition(target)),
        "assignment and save": Way(move=by_assignment(target)),
        "queryset's transition_to": Way(move=lambda job: ContainerJob.objects.filter(pk=job.pk).transition_to(target)),
    }
    if target in HELPERS:
        # mark_as_queued() says when the job may start: a retry at once, unless it is told otherwise.
        own = frozenset({"scheduled_for"}) if target == "queued" else frozenset()
        ways["helper"] = Way(move=HELPERS[target], own=own)
    return ways | OF_WORKERS.get(target, {})


def columns_after(source: str, way: Way) -> dict[str, Any]:
    """Return the columns of a job's row after a move, with the time of the move as a word."""
    job = job_with_left_overs(source)
    before = row_of(job)
    way.move(job)
    after = row_of(job)
    assert after["status_version"] != before["status_version"]
    differing = {"id", "created_at", "status_version"}
    return {name: _named(value) for name, value in after.items() if name not in differing}


def _named(value: Any) -> Any:
    recent = isinstance(value, datetime) and abs(timezone.now() - value) < timedelta(minutes=5)
    return NOW if recent else value


CASES = [
    pytest.param(source, target, name, id=f"{source} to {target} by {name}")
    for source, target in sorted(LEGAL)
    for name, way in ways_to(target).items()
    if name != "transition_to" and (way.sources is None or source in way.sources)
]


@pytest.mark.parametrize(("source", "target", "name"), CASES)
def test_every_way_to_a_status_writes_the_same_columns_as_transition_to(source: str, target: str, name: str) -> None:
    way = ways_to(target)[name]
    expected, found = columns_after(source, ways_to(target)["transition_to"]), columns_after(source, way)
    differing = {column for column in expected if expected[column] != found[column]}
    assert differing <= way.own


@pytest.mark.parametrize(("source", "target"), sorted(LEGAL))
def test_transition_to_writes_what_the_machine_says_and_nothing_else(source: str, target: str) -> None:
    machine, job = machine_of(ContainerJob), job_with_left_overs(source)
    before = row_of(job)
    job.transition_to(target)
    after = row_of(job)
    assert {name for name in after if after[name] != before[name]} <= set(machine.effects[target])


def test_a_running_job_has_no_columns_of_its_last_attempt_and_a_finished_job_has_no_worker() -> None:
    for source, target in sorted(LEGAL):
        columns = columns_after(source, ways_to(target)["transition_to"])
        if target == "running":
            clean = {name: columns[name] for name in ("exit_code", "failure_reason", "last_error", "worker")}
            assert clean == {"exit_code": None, "failure_reason": "", "last_error": "", "worker": ""}
            assert columns["launched_at"] == NOW
        if target in ("completed", "failed", "cancelled"):
            assert columns["worker"] == ""


@pytest.mark.parametrize("way", [queue.enqueue, lambda **fields: queue.enqueue_many([ContainerJob(**fields)])[0]])
def test_a_job_that_is_enqueued_has_the_columns_of_one_that_becomes_queued(way: Callable[..., ContainerJob]) -> None:
    machine = machine_of(ContainerJob)
    created = ContainerJob.objects.create_job(command="true")
    created.mark_as_queued()
    expected, found = (
        {name: _named(value) for name, value in row_of(job).items() if name not in ("id", *machine.marks)}
        for job in (created, way(command="true"))
    )
    assert found == expected
    assert found["queued_at"] == NOW


def test_a_retry_by_a_worker_leaves_the_columns_and_the_journal_of_a_retry_by_hand() -> None:
    by_hand, by_worker = job_with_left_overs("running"), job_with_left_overs("running")
    ContainerJob.objects.update(exit_code=1, failure_reason="error", last_error="no", scheduled_for=None)
    by_hand.refresh_from_db()
    by_hand.mark_as_failed(should_retry=True, reason="error", actor=WORKER)
    outcome = {"status": "failed", "exit_code": 1, "reason": "error", "message": "no", "retry_after_seconds": 0.0}
    by_finish(**outcome)(by_worker)
    rows = [row_of(job) for job in (by_hand, by_worker)]
    for row in rows:
        assert row["status"] == JobStatus.RETRYING
        assert (row["retry_count"], row["worker"], row["status_changed_reason"]) == (2, "", "error")
    differing = {name for name in rows[0] if _named(rows[0][name]) != _named(rows[1][name])}
    assert differing == {"id", "status_version", "scheduled_for"}
    journals = [
        list(job.transitions.values_list("from_status", "to_status", "actor", "reason")) for job in (by_hand, by_worker)
    ]
    assert journals[0] == journals[1]
    assert [(row[0], row[1]) for row in journals[0]] == [("running", "failed"), ("failed", "retrying")]


@pytest.mark.parametrize("status", ["cancelled", "completed", "failed"])
def test_a_worker_still_owns_its_attempt_after_the_job_was_ended_by_hand(status: str) -> None:
    """Ownership is in the attempt's row: the job's ``worker`` is empty by then."""
    job = job_with_left_overs("running")
    job.transition_to(status)
    (owned,) = store.owned_attempts(worker=WORKER, using="default")
    assert (owned.job.id, owned.job.attempt, owned.status) == (job.pk, 1, status)
    by_finish(status=None)(job)
    assert store.owned_attempts(worker=WORKER, using="default") == []
    assert row_of(job)["status"] == status


def test_a_job_that_was_run_again_by_hand_cannot_be_finished_by_the_worker_that_had_it() -> None:
    job = job_with_left_overs("running")
    for status in ("failed", "retrying", "queued", "running"):
        job.transition_to(status)
    outcome = store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)
    store.finish([outcome], worker=WORKER, using="default")
    assert row_of(job)["status"] == "running"


def test_a_save_keeps_columns_that_the_caller_has_set() -> None:
    job = job_with_left_overs("queued")
    job.status, job.exit_code, job.worker = "running", 3, "mine"
    job.save()
    row = row_of(job)
    assert (row["exit_code"], row["worker"], row["failure_reason"], row["last_error"]) == (3, "mine", "", "")


def test_these_tests_cover_every_status_that_a_transition_leads_to() -> None:
    assert {case.values[1] for case in CASES} == set(STATUSES) - {"pending"}


def test_the_docs_list_what_each_transition_writes() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/jobs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (.*`.*) \|$", page.split("## What a transition writes")[1].split("\n## ")[0], re.M)
    machine = machine_of(ContainerJob)
    written = {state: effects.keys() - {"status", *machine.marks} for state, effects in machine.effects.items()}
    assert {state: set(re.findall(r"`(\w+)`", text)) for state, text in rows} == {
        state: names for state, names in written.items() if names
    }
