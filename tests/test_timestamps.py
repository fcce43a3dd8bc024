"""The database's CHECK of a job's timestamps allows what the transitions leave, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations

import pytest
from django.core.exceptions import ValidationError

from container_manager.models import JOB_TRANSITIONS, ContainerJob, JobStatus
from container_manager.statemachine import Effect

from .jobs import STATUSES, THEN, columns_for

pytestmark = pytest.mark.django_db
_COLUMNS = ("queued_at", "launched_at", "completed_at")
# A status, and the timestamps that are set.
State = tuple[str, frozenset[str]]


def after(columns: frozenset[str], status: str) -> frozenset[str]:
    """Return the timestamps that are set once a transition to a status has written its effects."""
    effects = ContainerJob.transition_effects.get(status, {})
    written = {name: value for name, value in effects.items() if name in _COLUMNS}
    assert set(written.values()) <= {Effect.NOW, None}
    return (columns - set(written)) | {name for name, value in written.items() if value is Effect.NOW}


def reachable() -> set[State]:
    """Return what a job can be in that begins as pending, by all paths of the map."""
    found, left = set[State](), [(str(JobStatus.PENDING), frozenset[str]())]
    while left:
        state = left.pop()
        if state not in found:
            found.add(state)
            left += [(str(target), after(state[1], str(target))) for target in JOB_TRANSITIONS[state[0]]]
    return found


def allowed() -> Iterator[State]:
    """Yield what the CHECK allows, as the database reads it."""
    (check,) = (each for each in ContainerJob._meta.constraints if each.name == "cm_job_timestamps_match")
    for status in STATUSES:
        for names in chain.from_iterable(combinations(_COLUMNS, count) for count in range(len(_COLUMNS) + 1)):
            try:
                check.validate(ContainerJob, ContainerJob(status=status, **dict.fromkeys(names, THEN)))
            except ValidationError:
                continue
            yield status, frozenset(names)


def test_the_check_allows_exactly_what_the_effects_of_transitions_leave() -> None:
    assert set(allowed()) == reachable()


@pytest.mark.without_database
def test_jobs_that_tests_put_into_a_status_have_timestamps_that_it_can_have() -> None:
    for status in STATUSES:
        names = frozenset(name for name, value in columns_for(status).items() if value is not None)
        assert (status, names) in reachable()
