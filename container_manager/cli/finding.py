"""Find the job that a command names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ..models import ContainerJob
from ..querysets import ContainerJobQuerySet


class Refused(Exception):
    """The command cannot do this; the text says why and what to do."""


def unanswered(executors: Sequence[str], consequence: str) -> Refused:
    """Return the error for a worker that ended because some of its executors did not answer."""
    return Refused(f"No answer from executor {', '.join(executors)}: {consequence}. 'container executors' says more.")


def unguarded(triggers: Sequence[str], using: str) -> Refused:
    """Return the error for a worker that found no triggers to hold the map and write the journal."""
    return Refused(
        f"Triggers of jobs in database {using!r} are missing or differ from the map: {', '.join(triggers)}. "
        f"Without them jobs are neither guarded nor recorded, so no worker runs. "
        f"'migrate --database {using}' installs them."
    )


def jobs(options: Mapping[str, Any]) -> ContainerJobQuerySet:
    return ContainerJob.objects.using(options["database"])


def find_job(options: Mapping[str, Any], text: str) -> ContainerJob:
    """Return the job with this id, a unique end of an id, or a unique name.

    Ids are ordered by time, so their beginnings are alike and their ends are not. Raises Refused.
    """
    try:
        found = list(jobs(options).filter(pk=UUID(text))[:2])
    except ValueError:
        found = list(jobs(options).filter(name=text)[:2]) or _by_end(options, text)
    if not found:
        raise Refused(f"No job is called {text!r}; 'ps --all' lists them.")
    if len(found) > 1:
        raise Refused(f"{text!r} means more than one job; give the whole id.")
    return found[0]


def _by_end(options: Mapping[str, Any], text: str) -> list[ContainerJob]:
    end = text.replace("-", "").lower()
    if len(end) < 4 or any(letter not in "0123456789abcdef" for letter in end):
        return []
    keys = [pk for pk in jobs(options).values_list("pk", flat=True).iterator() if pk.hex.endswith(end)]
    return list(jobs(options).filter(pk__in=keys[:2]))


def short_id(job_id: UUID) -> str:
    return job_id.hex[-12:]
