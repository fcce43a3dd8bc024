"""Find the job that a command names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from ..models import ContainerJob
from ..querysets import ContainerJobQuerySet

# An error names so many jobs.
_SHOWN = 5
_SHORT = len("01a2240e-3dcc-72e6")


class Refused(Exception):
    """The command cannot do this; the text says why and what to do."""


def unanswered(executors: Sequence[str], consequence: str) -> Refused:
    """Return the error for a worker that ended because some of its executors did not answer."""
    return Refused(f"No answer from executor {', '.join(executors)}: {consequence}. 'container executors' says more.")


def unclaimable(jobs: Collection[UUID]) -> Refused:
    """Return the error for a worker that ended although jobs are queued, since the database refuses their claim."""
    shown = ", ".join(short_id(job) for job in sorted(jobs)[:_SHOWN])
    more = f" and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else ""
    return Refused(
        f"The database refuses the claim of job {shown}{more}: what is queued stays queued. Its last error says why."
    )


def unguarded(triggers: Sequence[str], using: str) -> Refused:
    """Return the error for a worker that found no triggers to hold the map and write the journal."""
    return Refused(
        f"Triggers of jobs in database {using!r} are missing or differ from the map: {', '.join(triggers)}. "
        f"Without them jobs are neither guarded nor recorded, so no worker runs. "
        f"'migrate --database {using}' installs them."
    )


def job_queryset(options: Mapping[str, Any]) -> ContainerJobQuerySet:
    return ContainerJob.objects.using(options["database"])


def find_job(options: Mapping[str, Any], text: str) -> ContainerJob:
    """Return the job with this id, a unique beginning of an id, or a unique name. Raises Refused."""
    all_jobs = job_queryset(options)
    found = list(all_jobs.id_begins(text)[: _SHOWN + 1]) or list(all_jobs.named(text)[: _SHOWN + 1])
    if not found:
        raise Refused(f"No job is called {text!r}; 'ps --all' lists them.")
    if len(found) > 1:
        which = ", ".join(f"{short_id(job.pk)} ({job.status})" for job in found[:_SHOWN])
        more = ", …" if len(found) > _SHOWN else ""
        raise Refused(f"{text!r} means more than one job: {which}{more}. Give one of these ids.")
    return found[0]


def short_id(job_id: UUID) -> str:
    """Return the beginning of an id that has its time, to a quarter of a microsecond."""
    return str(job_id)[:_SHORT]
