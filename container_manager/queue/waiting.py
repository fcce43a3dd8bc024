"""Why jobs wait: those that were never queued, those in the queue, and those whose retry is to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from django.db.models import Count, IntegerField, Subquery
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..conf import app_settings
from ..jobs.time_words import between, moment
from ..models import ContainerJob, JobAttempt, JobStatus, PausedQueue, Worker
from ..querysets import ContainerJobQuerySet
from ..store import REFUSED_CLAIM, database_now
from .endings import failure_evidence, failure_summary, last_attempt
from .explanation import Explanation, ExplanationCode, by, explained, quoted
from .liveness import away_since, workers_alive

# So many jobs ahead are counted, and so many workers are named.
MOST_AHEAD = 1000
_SHOWN = 5


def explain_pending(job: ContainerJob, *, using: str) -> Explanation:
    evidence = [
        _("It was created at %(time)s by %(who)s.") % {"time": moment(job.created_at), "who": by(job.created_by)}
    ]
    return explained(
        ExplanationCode.NOT_QUEUED,
        _("It was never queued."),
        evidence=evidence,
        next_step=_("Queue it: mark_as_queued(), or the action of the admin."),
    )


def explain_queued(job: ContainerJob, *, using: str) -> Explanation:
    """Explain by the first of all that holds the job up; the rest is evidence."""
    now = database_now(using=using)
    live = workers_alive(using)
    held_up = [found for found in (_refused(job), _scheduled(job, now), _paused(job, now, using)) if found is not None]
    serving = [worker for worker in live if worker.serves(job.executor, job.queue)]
    reachable = [worker for worker in serving if not away_since(worker, job.executor, now)]
    if not serving:
        held_up.append(_unserved(job, live))
    elif not reachable:
        held_up.append(_engine_away(job, serving, now))
    elif not held_up:
        held_up.append(_in_line(job, reachable, using))
    first, *others = held_up
    since = _("It has been queued since %s.") % moment(job.queued_at, now) if job.queued_at is not None else ""
    evidence = (*([since] if since else []), *first.evidence, *(other.summary for other in others))
    return replace(first, evidence=evidence)


def explain_retrying(job: ContainerJob, *, using: str) -> Explanation:
    now, attempt = database_now(using=using), last_attempt(job, using=using)
    evidence = [
        failure_summary(job, attempt),
        *failure_evidence(job, attempt),
        _("Retries so far: %(count)d of %(most)d.") % {"count": job.retry_count, "most": job.max_retries},
    ]
    due = job.scheduled_for
    if due is not None and between(now, due).total_seconds() > 0:
        return explained(
            ExplanationCode.RETRY_SCHEDULED,
            _("Its last attempt failed; it is tried again at %s.") % moment(due, now),
            evidence=evidence,
            next_step=_("Not to wait for that: 'container retry %s'.") % job.pk,
        )
    if not workers_alive(using):
        return explained(
            ExplanationCode.NO_WORKER,
            _("Its retry is due, and no worker lives that would queue it."),
            evidence=evidence,
            next_step=_start_worker(job),
        )
    return explained(
        ExplanationCode.DUE,
        _("Its retry is due: the oldest live worker queues it at its next look."),
        evidence=evidence,
        next_step=_("If that lasts, see the log of that worker: the database may refuse the transition."),
    )


def _refused(job: ContainerJob) -> Explanation | None:
    if not job.last_error.startswith(REFUSED_CLAIM):
        return None
    said = quoted(job.last_error.removeprefix(REFUSED_CLAIM))
    return explained(
        ExplanationCode.CLAIM_REFUSED,
        _("The database refuses its claim, so workers leave it aside and try again, at most every 10 minutes."),
        evidence=[_("The database said: %s") % said] if said else [],
        next_step=_("Correct its row, or cancel it and enqueue it anew: 'container cancel %s'.") % job.pk,
    )


def _scheduled(job: ContainerJob, now: datetime) -> Explanation | None:
    if job.scheduled_for is None or between(now, job.scheduled_for).total_seconds() <= 0:
        return None
    return explained(ExplanationCode.SCHEDULED, _("It is scheduled for %s.") % moment(job.scheduled_for, now))


def _paused(job: ContainerJob, now: datetime, using: str) -> Explanation | None:
    pause = PausedQueue.objects.using(using).filter(pk=job.queue).first()
    if pause is None:
        return None
    values = {"queue": job.queue, "who": by(pause.paused_by), "time": moment(pause.paused_at, now)}
    return explained(
        ExplanationCode.QUEUE_PAUSED,
        _("Its queue %(queue)s is paused since %(time)s, by %(who)s.") % values,
        next_step=_("Resume it: 'container queue --resume %s'.") % job.queue,
    )


def _unserved(job: ContainerJob, live: Sequence[Worker]) -> Explanation:
    settings = app_settings()
    evidence = [
        _("%(worker)s serves executors %(executors)s, queues %(queues)s.")
        % {
            "worker": _name(worker),
            "executors": ", ".join(map(str, worker.executors)),
            "queues": ", ".join(map(str, worker.queues)) or _("all"),
        }
        for worker in live[:_SHOWN]
    ]
    evidence.append(ngettext("%d worker lives.", "%d workers live.", len(live)) % len(live))
    if job.executor not in settings.executors:
        evidence.append(_("The settings have no executor %s.") % job.executor)
    if settings.queues is not None and job.queue not in settings.queues:
        evidence.append(_("The settings have no queue %s.") % job.queue)
    return explained(
        ExplanationCode.NO_WORKER,
        _("No live worker serves executor %(executor)s in queue %(queue)s.")
        % {"executor": job.executor, "queue": job.queue},
        evidence=evidence,
        next_step=_start_worker(job),
    )


def _engine_away(job: ContainerJob, serving: Sequence[Worker], now: datetime) -> Explanation:
    evidence = [
        _("For %(worker)s: since %(time)s.") % {"worker": _name(worker), "time": away_since(worker, job.executor, now)}
        for worker in serving[:_SHOWN]
    ]
    return explained(
        ExplanationCode.ENGINE_AWAY,
        _("The engine of executor %s does not answer.") % job.executor,
        evidence=evidence,
        next_step=_("See what it says: 'container executors', on the host of such a worker."),
    )


def _in_line(job: ContainerJob, reachable: Sequence[Worker], using: str) -> Explanation:
    """Explain a job that only the others ahead of it hold up."""
    ids = [worker.pk for worker in reachable]
    open_attempts = JobAttempt.objects.using(using).filter(finished_at=None, worker__in=ids).order_by()
    busy = dict(open_attempts.values_list("worker").annotate(Count("pk")))
    # An attempt whose end is being stored takes no slot.
    taken = {worker.pk: min(worker.slots, busy.get(worker.pk, 0)) for worker in reachable}
    slots, ahead = sum(worker.slots for worker in reachable), _ahead(job, using)
    values = {"taken": sum(taken.values()), "slots": slots}
    evidence = [
        _("%(worker)s: %(taken)d of %(slots)d slots taken.")
        % {"worker": _name(worker), "taken": taken[worker.pk], "slots": worker.slots}
        for worker in reachable[:_SHOWN]
    ]
    evidence.append(_ahead_text(ahead))
    if values["taken"] >= slots:
        return explained(
            ExplanationCode.SLOTS_TAKEN,
            _("All %(slots)d slots of the workers that serve it are taken.") % values,
            evidence=evidence,
            next_step=_("Wait, or start another worker, or one with more slots: 'container worker --slots N'."),
        )
    if ahead:
        return explained(
            ExplanationCode.BEHIND_OTHERS,
            _("Jobs of its executor and queue are ahead of it; %(taken)d of %(slots)d slots are taken.") % values,
            evidence=evidence,
            next_step=_("Wait; a job of a higher priority is claimed sooner."),
        )
    return explained(
        ExplanationCode.DUE,
        _("Nothing holds it up: %(taken)d of %(slots)d slots are taken, so a worker claims it at its next look.")
        % values,
        evidence=evidence,
        next_step=_("If that lasts, see the workers' logs: one may be ending, or a transaction holds its row locked."),
    )


def _ahead(job: ContainerJob, using: str) -> int:
    """Count the jobs of its lane that are claimed before it, at most `MOST_AHEAD`.

    By ranges of the index of claims, so that none of the jobs behind it is read.
    """
    lane: ContainerJobQuerySet = ContainerJob.objects.using(using).filter(
        status=JobStatus.QUEUED, scheduled_for=None, executor=job.executor, queue=job.queue
    )
    peers = lane.filter(priority=job.priority)
    ranges = (
        lane.filter(priority__gt=job.priority),
        peers.filter(queued_at__lt=job.queued_at),
        peers.filter(queued_at=job.queued_at, pk__lt=job.pk),
    )
    # An order that only this index has: a planner may else take the whole table to be as good.
    firsts = [jobs.order_by("-priority", "queued_at", "pk").values("pk")[:MOST_AHEAD] for jobs in ranges]
    counts = ContainerJob.objects.using(using).filter(pk=job.pk).values_list(*map(_CountOf, firsts)).first()
    return min(MOST_AHEAD, sum(counts or ()))


class _CountOf(Subquery):
    """How many rows a query has, as a value of another one: counts of several ranges in one statement."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS counted)"
    output_field = IntegerField()


def _ahead_text(ahead: int) -> str:
    if ahead >= MOST_AHEAD:
        return _("At least %d jobs of its executor and queue are ahead of it.") % ahead
    text = "%d job of its executor and queue is ahead of it.", "%d jobs of its executor and queue are ahead of it."
    return ngettext(*text, ahead) % ahead


def _name(worker: Worker) -> str:
    return _("Worker %(id)s on %(host)s") % {"id": worker.pk, "host": worker.host}


def _start_worker(job: ContainerJob) -> str:
    values = {"executor": job.executor, "queue": job.queue}
    return _("Start a worker: 'container worker --executor %(executor)s --queue %(queue)s'.") % values
