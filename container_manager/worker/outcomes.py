"""Decide what an exit means for its job: pure functions of values."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..conf import RetrySettings
from ..executors.base import ExitStatus
from ..jobs.signal_names import signal_name
from ..store import ClaimedJob, Outcome

_MESSAGE_CHARACTERS = 10_000
_UNRETURNED = (
    "The process ended with exit code 0, but handed out no result of the task: it ended before the function had "
    "returned, or had no place for a result."
)
_UNPROVEN = (
    "It is not retried, since the job asks for that only after a proven stop (retry_after_proven_stop): see whether it "
    "still runs, then retry the job by hand."
)
# Reasons that are not the command's own.
_LOSSES = ("lost", "node_lost", "unavailable")
# What the columns of an attempt hold on every database.
_MOST_CODE, _MOST_SIGNAL, _MOST_BYTES, _MOST_SECONDS = 2**31 - 1, 2**15 - 1, 2**63 - 1, 10**9
N = TypeVar("N", int, float)


def outcome_of(job: ClaimedJob, exit_status: ExitStatus, *, stopped_for: str | None, retry: RetrySettings) -> Outcome:
    """Return the outcome of an attempt that has exited.

    ``stopped_for``: why this worker stopped it (``timeout``, ``lost``), or None.
    """
    if exit_status.succeeded and stopped_for is None:
        if job.spec.task and not exit_status.result:
            # It calls os._exit, say. A function that returns nothing hands out null.
            return failed(job, "error", _UNRETURNED, exit_status=exit_status, retry=retry)
        return _outcome(job, "completed", exit_status)
    reason = failure_reason(exit_status, stopped_for)
    return failed(job, reason, failure_message(job, exit_status, reason), exit_status=exit_status, retry=retry)


def failed(
    job: ClaimedJob, reason: str, message: str, *, retry: RetrySettings, exit_status: ExitStatus | None = None
) -> Outcome:
    """Return a failure, with a retry if the settings name its reason and the job has retries left.

    A loss costs no retry, up to `RetrySettings.free_losses` of them. A job that asks for it is not retried while the
    attempt may still run.
    """
    retry_after, is_free = None, False
    waits_for_proof = exit_status is not None and exit_status.may_run and wants_proven_stop(job)
    if waits_for_proof:
        message = f"{message} {_UNPROVEN}"
    if reason in retry.reasons and job.spec.max_retries and not waits_for_proof:
        # Each attempt but the first is a retry that was counted, or follows a free loss.
        losses = max(0, job.attempt - 1 - job.retry_count)
        is_free = reason in _LOSSES and losses < retry.free_losses
        if is_free or job.retry_count < job.spec.max_retries:
            retry_after = retry_delay((losses if is_free else job.retry_count) + 1, retry, job.spec.backoff_seconds)
    outcome = _outcome(job, "failed", exit_status or ExitStatus(), reason=reason, message=message)
    return outcome._replace(retry_after_seconds=retry_after, counts_as_retry=not is_free)


def closed(job: ClaimedJob, exit_status: ExitStatus | None, message: str = "") -> Outcome:
    """Return an outcome that closes the attempt only: its job has left it already (it was cancelled)."""
    return _outcome(job, None, exit_status or ExitStatus(), message=message)


def wants_proven_stop(job: ClaimedJob) -> bool:
    """Tell whether a job is to be retried only after its former attempt has certainly stopped."""
    asked = job.spec.container
    return isinstance(asked, Mapping) and asked.get("retry_after_proven_stop") is True


def failure_reason(exit_status: ExitStatus, stopped_for: str | None) -> str:
    if stopped_for is not None:
        return stopped_for
    if exit_status.reason:
        return exit_status.reason
    if exit_status.lost:
        return "lost"
    if exit_status.unstarted:
        return "start"
    if exit_status.oom:
        return "oom"
    return "signal" if exit_status.signal is not None else "error"


def failure_message(job: ClaimedJob, exit_status: ExitStatus, reason: str) -> str:
    # First what this worker did: how the command ended after that says nothing of its own.
    if reason == "timeout" and exit_status.reason != "timeout":
        return (
            f"Ran for longer than {job.spec.timeout_seconds} s and was stopped. Give it more by timeout_seconds, as "
            "far as its executor's LIMITS allow, or less to do."
        )
    if exit_status.message:
        return exit_status.message
    if reason == "lost":
        return "The worker was stopped before the command had ended. It is run again if it has retries left."
    if reason == "oom":
        limit = job.spec.memory_bytes
        said = "" if limit is None else f" (limit: {limit} bytes)"
        return f"Out of memory{said}. Give it more by memory_bytes, or less to do at once."
    if exit_status.signal is not None:
        return f"Ended by signal {exit_status.signal} ({signal_name(exit_status.signal)}). Its output may say why."
    return f"Exit code {exit_status.code}. Its output may say why."


def unschedulable_message(executor: str, queue: str, *, executors: Sequence[str], queues: Sequence[str] | None) -> str:
    if executor not in executors:
        return f"There is no executor {executor!r}. Known: {', '.join(executors)}."
    return f"There is no queue {queue!r}. Known: {', '.join(queues or ())}."


def retry_delay(retry_number: int, retry: RetrySettings, backoff_seconds: int | None = None) -> float:
    """Return the seconds to wait before the n-th retry, counted from 1; the formula is `RetrySettings`'.

    ``backoff_seconds``: what the job says instead of ``initial_seconds``, also where that is above ``max_seconds``.
    """
    initial = retry.initial_seconds if backoff_seconds is None else backoff_seconds
    # Beyond 64 the power is far above any cap, and could overflow.
    grown = initial * retry.factor ** min(retry_number - 1, 64)
    most = max(retry.max_seconds, backoff_seconds or 0)
    return min(most, grown) * (1.0 + random.uniform(0.0, retry.jitter))  # noqa: S311  # spreads load


def _outcome(
    job: ClaimedJob,
    status: str | None,
    exit_status: ExitStatus,
    *,
    reason: str = "",
    message: str = "",
) -> Outcome:
    # By position: one is made for every job, and names take longer.
    return Outcome(
        job.id,
        job.attempt,
        status,
        _storable_number(exit_status.code, -_MOST_CODE, _MOST_CODE),
        _storable_number(exit_status.signal, 0, _MOST_SIGNAL),
        reason,
        storable(message) if message else "",
        _storable_number(exit_status.peak_memory_bytes, 0, _MOST_BYTES),
        _storable_number(exit_status.cpu_seconds, 0, _MOST_SECONDS),
    )


def _storable_number(number: N | None, least: int, most: int) -> N | None:
    """Return a number that every database accepts, or None: an executor may report anything. NaN is none of them."""
    return number if number is not None and least <= number <= most else None


def storable(text: str) -> str:
    """Return a text that every database accepts: it may quote the job, and an outcome must always be stored."""
    if len(text) > _MESSAGE_CHARACTERS:
        text = f"{text[:_MESSAGE_CHARACTERS]} …"
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
