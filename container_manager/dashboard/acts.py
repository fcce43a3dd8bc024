"""What the dashboard and its API do: act on one job, on some, on all that match a search; pause and resume queues.

Each function checks the user's permissions itself. Transitions are in the journal with their user; what the journal
does not hold (pauses, kills, acts on all that match) is in `container_manager.dashboard.models.AuditEntry`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..models import ContainerJob
from .search import Search

if TYPE_CHECKING:
    from .models import BulkAct


class JobAct(StrEnum):
    """An act on jobs. ``label`` and ``permission`` are for buttons."""

    QUEUE = "queue"
    RETRY = "retry"
    CANCEL = "cancel"
    KILL = "kill"


class ActRefused(Exception):
    """The job's status does not allow it, or no longer does; the message says so to a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """The result for some jobs: how many changed, and how many were refused for which reason."""

    changed: int
    refused: Counter[str]


def legal_acts(user: Any, job: ContainerJob) -> tuple[JobAct, ...]:
    """Return the acts that the job's status and the user's permissions allow: the buttons of its page."""
    raise NotImplementedError


def act_on(job: ContainerJob, act: JobAct, *, user: Any, reason: str = "") -> ContainerJob:
    """Do it to one job; return the job to show then, which is a new one where a finished job is run again.

    Raises PermissionDenied; ActRefused, as for a button of a stale page; ValidationError for a reason with control
    characters.
    """
    raise NotImplementedError


def act_on_some(jobs: Collection[UUID], act: JobAct, *, user: Any, reason: str = "", using: str | None = None) -> Acted:
    """Do it to the selected jobs of a page, in one transaction. Raises PermissionDenied and ValidationError."""
    raise NotImplementedError


def act_on_all(search: Search, act: JobAct, *, user: Any, reason: str = "", using: str | None = None) -> BulkAct:
    """Begin to do it to all jobs that match now; return the row with its progress. `advance` does the work.

    Raises PermissionDenied and ValidationError.
    """
    raise NotImplementedError


def advance(bulk: BulkAct, *, seconds: float = 1.0) -> None:
    """Do batches of a bulk act for about so long, and refresh it. Any number of processes may: they take turns."""
    raise NotImplementedError


def stop(bulk: BulkAct, *, user: Any) -> None:
    """End a bulk act where it is; what it has changed stays changed. Raises PermissionDenied."""
    raise NotImplementedError


def set_paused(queue: str, *, paused: bool, user: Any, reason: str = "", using: str | None = None) -> bool:
    """Pause a queue or resume it; return whether that changed anything. Raises PermissionDenied, ValidationError."""
    raise NotImplementedError
