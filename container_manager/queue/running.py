"""What running jobs do, and whether their worker lives."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils.translation import gettext as _

from ..conf import app_settings
from ..jobs.progress_lines import progress_of
from ..jobs.time_words import length, moment
from ..models import ContainerJob, JobAttempt, Worker
from ..store import database_now
from .endings import last_attempt
from .explanation import Explanation, ExplanationCode, by, explained, quoted
from .liveness import away_since, has_expired, lease_evidence


def explain_running(job: ContainerJob, *, using: str, quotes_progress: bool = True) -> Explanation:
    if not job.worker:
        return explained(
            ExplanationCode.MARKED_RUNNING,
            _("It was marked as running by %s, and no worker runs it.") % by(job.status_changed_by),
            evidence=_since(job, None, database_now(using=using)),
            next_step=_("The code that marked it is to mark its end too."),
        )
    now, attempt = database_now(using=using), last_attempt(job, using=using)
    worker = Worker.objects.using(using).filter(pk=job.worker).first()
    evidence = [*_since(job, attempt, now), *lease_evidence(job.worker, worker, now)]
    if worker is None:
        return _without_worker(job, attempt, evidence)
    if has_expired(worker, now):
        return explained(
            ExplanationCode.LEASE_EXPIRED,
            _("Nobody knows whether it still runs: the lease of its worker has expired."),
            evidence=evidence,
            next_step=_("Another worker takes it over; if none lives, start one. See the log of its worker too."),
        )
    if since := away_since(worker, job.executor, now):
        values = {"executor": job.executor, "time": since}
        bound = length(app_settings().unreachable_seconds)
        return explained(
            ExplanationCode.ENGINE_AWAY,
            _("The engine of executor %(executor)s does not answer since %(time)s.") % values,
            evidence=[*evidence, _("After %s (UNREACHABLE_SECONDS) the attempt is given up.") % bound],
            next_step=_("See what it says: 'container executors', on %s.") % worker.host,
        )
    if attempt is not None and (attempt.waiting_for or (attempt.engine and not attempt.handle)):
        what = quoted(attempt.waiting_for)
        return explained(
            ExplanationCode.LAUNCHING,
            _("Its launch waits for %s.") % what if what else _("It is being launched."),
            evidence=evidence,
            next_step=_("See its output, as it comes: 'container logs -f %s'.") % job.pk,
        )
    return explained(
        ExplanationCode.RUNNING,
        _runs_on(worker, attempt if quotes_progress else None),
        evidence=evidence,
        next_step=_("See its output, as it comes: 'container logs -f %s'.") % job.pk,
    )


def _runs_on(worker: Worker, attempt: JobAttempt | None) -> str:
    said = progress_of(attempt and attempt.progress)
    if said is None:
        return _("It runs on %s.") % worker.host
    form = _("It runs on %(host)s, %(done)d of %(total)d: %(text)s.")
    if not said.text:
        form = _("It runs on %(host)s, %(done)d of %(total)d.")
    return form % {"host": worker.host, "done": said.done, "total": said.total, "text": quoted(said.text)}


def _without_worker(job: ContainerJob, attempt: JobAttempt | None, evidence: list[str]) -> Explanation:
    if attempt is not None and attempt.engine:
        next_step = _("A worker that reaches its engine takes it over: run one that serves executor %s.") % job.executor
    else:
        next_step = _("Its command ended with its worker. The next live worker stores that: run one.")
    return explained(
        ExplanationCode.WORKER_GONE,
        _("Its worker is gone, and no other has taken it over yet."),
        evidence=evidence,
        next_step=next_step,
    )


def _since(job: ContainerJob, attempt: JobAttempt | None, now: datetime) -> list[str]:
    if job.launched_at is None:
        return []
    lines = [_("It was claimed at %s.") % moment(job.launched_at, now)]
    if attempt is not None:
        most = app_settings().allowed_retries(job.max_retries, executor=job.executor)
        number = {"number": attempt.number, "retries": job.retry_count, "most": most}
        lines.append(_("This is attempt %(number)d; retries so far: %(retries)d of %(most)d.") % number)
    if attempt is not None and attempt.waited_seconds:
        started = attempt.launched_at + timedelta(seconds=attempt.waited_seconds)
        lines.append(_("Its launch had to wait; its command was started at %s.") % moment(started, now))
    if job.timeout_seconds is not None:
        lines.append(_("Its timeout is %s.") % length(job.timeout_seconds))
    return lines
