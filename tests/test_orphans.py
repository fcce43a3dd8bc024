"""Which of the attempts that an engine holds are nobody's any more."""

from __future__ import annotations

import uuid

import pytest

from container_manager.store.orphans import attempts_over

from .jobs import THEN, job_in

pytestmark = pytest.mark.django_db


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed", "howto/docker.md#run-jobs-in-containers")
def test_closed_and_unknown_attempts_are_orphans_and_open_attempts_are_not() -> None:
    job = job_in("running", attempt=3)
    for number, finished_at, reason in ((1, THEN, "error"), (2, THEN, ""), (3, None, "")):
        job.attempts.create(
            number=number, worker="w", executor="default", launched_at=THEN, finished_at=finished_at, reason=reason
        )
    unknown = uuid.uuid4()
    held = [(job.pk, 1), (job.pk, 2), (job.pk, 3), (job.pk, 4), (unknown, 1)]
    assert attempts_over(held, using="default") == {
        (job.pk, 1): True,
        (job.pk, 2): False,
        (job.pk, 4): False,
        (unknown, 1): False,
    }
