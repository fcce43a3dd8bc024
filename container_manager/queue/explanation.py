"""What an explanation is, and how it says sizes and what others wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..jobs.printable import escaped

# An error's message may quote much of a job's output.
_SHOWN_CHARACTERS = 1000
_MEBIBYTE = 1024**2


class ExplanationCode(StrEnum):
    """What an explanation says, for programs; those of failures are the values of `FailureReason`."""

    NOT_QUEUED = "not_queued"
    CLAIM_REFUSED = "claim_refused"
    SCHEDULED = "scheduled"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    ENGINE_AWAY = "engine_away"
    SLOTS_TAKEN = "slots_taken"
    BEHIND_OTHERS = "behind_others"
    DUE = "due"
    RETRY_SCHEDULED = "retry_scheduled"
    LAUNCHING = "launching"
    RUNNING = "running"
    MARKED_RUNNING = "marked_running"
    LEASE_EXPIRED = "lease_expired"
    WORKER_GONE = "worker_gone"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    MARKED_FAILED = "marked_failed"
    ERROR = "error"
    SIGNAL = "signal"
    OOM = "oom"
    TIMEOUT = "timeout"
    IMAGE = "image"
    START = "start"
    UNSCHEDULABLE = "unschedulable"
    UNAVAILABLE = "unavailable"
    NODE_LOST = "node_lost"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job waits, what it does, or why it ended as it did.

    ``summary`` is one sentence, ``evidence`` what shows it, a sentence each, and ``next_step`` what to do, "" for
    nothing. Each is one line, in which characters that would change how others are shown are escaped; for HTML they
    are to be escaped as any text is.
    """

    code: ExplanationCode
    summary: str
    evidence: tuple[str, ...] = ()
    next_step: str = ""


def explained(
    code: ExplanationCode, summary: object, *, evidence: Iterable[str] = (), next_step: object = ""
) -> Explanation:
    """Return an explanation of these texts, whoever wrote what they quote."""
    lines = tuple(escaped(line) for line in evidence if line)
    return Explanation(code=code, summary=escaped(summary), evidence=lines, next_step=escaped(next_step))


def size(count: int) -> str:
    """Write a number of bytes."""
    if count < _MEBIBYTE:
        return ngettext("%d byte", "%d bytes", count) % count
    return _("%(mebibytes).1f MiB (%(bytes)d bytes)") % {"mebibytes": count / _MEBIBYTE, "bytes": count}


def quoted(text: str) -> str:
    """Return a text of somebody else's, without what is too much of it."""
    text = text.strip()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} …"


def by(actor: str) -> str:
    """Say who did something, as far as the journal knows."""
    return quoted(actor) or _("somebody unknown")
