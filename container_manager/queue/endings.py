"""Why jobs ended as they did: completed, cancelled, or failed for each reason that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..conf import app_settings
from ..jobs.signal_names import signal_name
from ..jobs.time_words import length, moment
from ..models import ContainerJob, FailureReason, JobAttempt, Worker
from ..store import database_now
from .explanation import Explanation, ExplanationCode, by, explained, quoted, size
from .liveness import lease_evidence

# By reason: what happened, and what to do. Formatted with the job's values.
FAILURES: Mapping[str, tuple[str | Promise, str | Promise]] = {
    FailureReason.ERROR: (
        gettext_lazy("Its command ended with exit code %(exit_code)s."),
        gettext_lazy("See why in its output: 'container logs %(job)s'. 'container retry %(job)s' runs it again."),
    ),
    FailureReason.SIGNAL: (
        gettext_lazy("Its command was ended by signal %(signal)s."),
        gettext_lazy(
            "See its output: 'container logs %(job)s'. SIGSEGV, SIGABRT and SIGBUS are faults of the program; SIGKILL "
            "is the host's out-of-memory killer, or somebody."
        ),
    ),
    FailureReason.OOM: (
        gettext_lazy("It needed more memory than its limit allows."),
        gettext_lazy("Give it more by memory_bytes, or less to do at once; then run it again."),
    ),
    FailureReason.TIMEOUT: (
        gettext_lazy("It ran for longer than its timeout allows and was stopped."),
        gettext_lazy("Give it more by timeout_seconds, as far as its executor's LIMITS allow, or less to do."),
    ),
    FailureReason.IMAGE: (
        gettext_lazy("Its image is not available."),
        gettext_lazy(
            "Check the image's name, whether its executor may use it, and the login to its registry; then "
            "'container retry %(job)s'."
        ),
    ),
    FailureReason.START: (
        gettext_lazy("It could not be started."),
        gettext_lazy("Correct what the error names: the command, what it asks of its container, or the settings."),
    ),
    FailureReason.UNSCHEDULABLE: (
        gettext_lazy("Nobody knows its executor or its queue."),
        gettext_lazy(
            "Start a worker that serves executor %(executor)s and queue %(queue)s, or enqueue the job with others."
        ),
    ),
    FailureReason.UNAVAILABLE: (
        gettext_lazy("Something that its launch needs was not available for too long."),
        gettext_lazy("See to the registry, disk or service that the error names; then 'container retry %(job)s'."),
    ),
    FailureReason.NODE_LOST: (
        gettext_lazy("The node that ran it was lost."),
        gettext_lazy("It may have run in part. If it can run twice: 'container retry %(job)s'."),
    ),
    FailureReason.LOST: (
        gettext_lazy("Nobody knows how it ended: its worker or its engine was lost."),
        gettext_lazy("It may have run in part, or to its end. If it can run twice: 'container retry %(job)s'."),
    ),
}


def last_attempt(job: ContainerJob, *, using: str) -> JobAttempt | None:
    """Return the attempt that the job's row is about."""
    return JobAttempt.objects.using(using).filter(job=job.pk, number=job.attempt).first()


def explain_completed(job: ContainerJob, *, using: str) -> Explanation:
    attempt = last_attempt(job, using=using)
    if attempt is None:
        summary = _("It was marked as completed by %s.") % by(job.status_changed_by)
        return explained(ExplanationCode.COMPLETED, summary, evidence=_change(job))
    result = [_("It has left a result.")] if attempt.result is not None else []
    return explained(ExplanationCode.COMPLETED, _("Its command ended well."), evidence=[*_run(job, attempt), *result])


def explain_failed(job: ContainerJob, *, using: str) -> Explanation:
    attempt = last_attempt(job, using=using)
    if job.failure_reason not in FAILURES:
        return explained(
            ExplanationCode.MARKED_FAILED,
            _("It was marked as failed by %s.") % by(job.status_changed_by),
            evidence=[*_change(job), *failure_evidence(job, attempt)],
            next_step=_("If it is to run again: 'container retry %s'.") % job.pk,
        )
    summary, next_step = (str(text) % _values(job, attempt) for text in FAILURES[job.failure_reason])
    evidence = [*failure_evidence(job, attempt), *_why_no_retry(job)]
    return explained(ExplanationCode(job.failure_reason), summary, evidence=evidence, next_step=next_step)


def failure_evidence(job: ContainerJob, attempt: JobAttempt | None) -> Iterator[str]:
    """Say how the last attempt failed, as its row and the job's have it."""
    if job.last_error:
        yield _("Its last error: %s") % quoted(job.last_error)
    if job.failure_reason == FailureReason.OOM:
        yield _memory(job, attempt)
    if attempt is not None:
        yield from _run(job, attempt)


def failure_summary(job: ContainerJob, attempt: JobAttempt | None) -> str:
    """Say in a sentence why the last attempt failed; "" if its row names no reason."""
    known = FAILURES.get(job.failure_reason)
    return "" if known is None else str(known[0]) % _values(job, attempt)


def explain_cancelled(job: ContainerJob, *, using: str) -> Explanation:
    said = _("It was cancelled by %s.") % by(job.status_changed_by)
    attempt = JobAttempt.objects.using(using).filter(job=job.pk, finished_at=None).first()
    if attempt is None:
        return explained(
            ExplanationCode.CANCELLED,
            said,
            evidence=_change(job),
            next_step=_("If it is to run after all: 'container retry %s' makes a new job of it.") % job.pk,
        )
    now = database_now(using=using)
    worker = Worker.objects.using(using).filter(pk=attempt.worker).first()
    still_open = _("Attempt %d is still open.") % attempt.number
    evidence = [*_change(job), still_open, *lease_evidence(attempt.worker, worker, now)]
    if attempt.kill_requested_at is not None:
        evidence.append(_("It is to be killed at once, since %s.") % moment(attempt.kill_requested_at, now))
    else:
        evidence.append(_("Between TERM and KILL its command gets %s.") % length(job.grace_seconds))
    return explained(
        ExplanationCode.CANCELLING,
        _("%s What runs of it is being ended.") % said,
        evidence=evidence,
        next_step=_("Not to wait for that: 'container cancel --now %s'.") % job.pk,
    )


def _values(job: ContainerJob, attempt: JobAttempt | None) -> dict[str, object]:
    number = None if attempt is None else attempt.signal
    return {
        "job": job.pk,
        "exit_code": _("that is not known") if job.exit_code is None else job.exit_code,
        "signal": _("that is not known") if number is None else f"{number} ({signal_name(number)})",
        "executor": job.executor,
        "queue": job.queue,
    }


def _change(job: ContainerJob) -> Iterator[str]:
    """Say when and why the job got its status."""
    if job.status_changed_at is not None:
        yield _("That was at %s.") % moment(job.status_changed_at)
    if job.status_changed_reason:
        yield _("The reason that was given: %s") % quoted(job.status_changed_reason)


def _run(job: ContainerJob, attempt: JobAttempt) -> Iterator[str]:
    """Say how long an attempt took, and of what."""
    if attempt.finished_at is not None:
        seconds = max(0.0, (attempt.finished_at - attempt.launched_at).total_seconds())
        values = {"number": attempt.number, "end": moment(attempt.finished_at), "length": length(seconds)}
        yield _("Attempt %(number)s ended at %(end)s, %(length)s after its claim.") % values
    if attempt.peak_memory_bytes is not None and job.failure_reason != FailureReason.OOM:
        yield _("Its peak of memory: %s.") % size(attempt.peak_memory_bytes)
    if attempt.cpu_seconds is not None:
        yield _("Its CPU time: %.1f s.") % attempt.cpu_seconds


def _memory(job: ContainerJob, attempt: JobAttempt | None) -> str:
    limit = _("none of its own") if job.memory_bytes is None else size(job.memory_bytes)
    if attempt is None or attempt.peak_memory_bytes is None:
        return _("Its limit of memory: %s.") % limit
    return _("Its limit of memory: %(limit)s; its peak: %(peak)s.") % {
        "limit": limit,
        "peak": size(attempt.peak_memory_bytes),
    }


def _why_no_retry(job: ContainerJob) -> Iterator[str]:
    """Say why the failure is final, as a worker has decided it."""
    settings = app_settings()
    allowed = settings.allowed_retries(job.max_retries, executor=job.executor)
    if job.failure_reason not in settings.retry.reasons:
        yield _("The setting RETRY has no retry for the reason %s.") % job.failure_reason
    elif not allowed:
        yield _("It has no retries.")
    elif job.retry_count >= allowed:
        yield _("All of its retries are used: %d.") % job.retry_count
