"""What each operation of the API does: from a request, whose user is known, to what is sent as JSON."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from django.db import router, transaction
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _

from ... import queue
from ...jobs.progress_lines import progress_json
from ...jobs.spec import PRIVATE_FIELDS
from ...models import ContainerJob, JobLog
from ..access import Act, can_see, may, visible_jobs
from ..acts import act_on_all, advance, set_paused, stop, visible_bulk_acts
from ..job_acts import JobAct, act_on, act_on_some, legal_acts
from ..models import BulkAct
from ..search import JobSearch, parse
from ..workforce import workforce
from .requests import BadRequest, integer, json_body
from .schemas import ATTEMPT, BULK_ACT, DETAILED, LISTED, SUBMITTED, TRANSITION

MOST_ROWS = 200
_LOG_BYTES = 256 * 1024
_ADVANCE_SECONDS = 1.0


def list_jobs(request: HttpRequest) -> Any:
    size = integer(request, "size", default=50, least=1, most=MOST_ROWS)
    search = parse(request.GET.get("search", ""))
    page = JobSearch(visible_jobs(request.user), search).page(request.GET.get("cursor", ""), size)
    return {
        "jobs": [_fields(job, LISTED) for job in page.rows],
        "next": page.next,
        "previous": page.previous,
        "searched_until": page.searched_until,
    }


def count_jobs(request: HttpRequest) -> Any:
    count = JobSearch(visible_jobs(request.user), parse(request.GET.get("search", ""))).count()
    return {"number": count.number, "is_more": count.is_more}


def show_job(request: HttpRequest, id: UUID) -> Any:  # noqa: A002  # as in the path
    return _detail(request, _job(request, id))


def submit_job(request: HttpRequest) -> Any:
    given = json_body(request, SUBMITTED)
    using = router.db_for_write(ContainerJob)
    with transaction.atomic(using=using):
        job = queue.enqueue(actor=request.user, using=using, **given)
        if job.existed and not can_see(request.user, job):
            raise BadRequest(_("A job that you may not see holds this unique_key: choose another one."))
        if may(request.user, Act.VIEW) and not can_see(request.user, job):
            raise BadRequest(_("You could not see this job: it is not one of those that your team may have."))
    return _detail(request, job)


def act_on_job(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    given = json_body(request, {"act": str, "reason": str}, needed=("act",))
    job = act_on(_job(request, id), _act(given), user=request.user, reason=given.get("reason", ""))
    return _detail(request, job)


def act_on_selected(request: HttpRequest) -> Any:
    given = json_body(request, {"jobs": list, "act": str, "reason": str}, needed=("jobs", "act"))
    try:
        keys = [UUID(key) for key in given["jobs"]]
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequest("'jobs' is a list of ids.") from error
    acted = act_on_some(keys, _act(given), user=request.user, reason=given.get("reason", ""))
    return {"changed": acted.changed, "refused": dict(acted.refused)}


def list_transitions(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    job = _job(request, id)
    rows = job.transitions.filter(pk__gt=integer(request, "after", default=0)).order_by("pk")
    return _rows("transitions", rows, TRANSITION, key="id")


def list_attempts(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    job = _job(request, id)
    rows = job.attempts.filter(number__gt=integer(request, "after", default=0)).order_by("number")
    found = _rows("attempts", rows, ATTEMPT, key="number")
    sees_output = may(request.user, Act.SEE_OUTPUT)
    for attempt in found["attempts"]:
        attempt["progress"] = progress_json(attempt["progress"])
        if not sees_output:
            attempt |= {"message": None, "result": None, "progress": None}
    return found


def read_log(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    job = _job(request, id)
    number = integer(request, "attempt", default=job.attempt)
    after = integer(request, "after", default=-1, least=-1)
    # Read before the output, so that what is printed before the end is not missed.
    attempt = job.attempts.filter(number=number).first()
    if attempt is None:
        if "attempt" in request.GET:
            raise Http404(_("The job has no such attempt."))
        return {"attempt": 0, "entries": [], "next": -1, "is_more": False, "is_over": job.is_finished}
    rows = JobLog.objects.using(job._state.db).filter(attempt=attempt, sequence__gt=after).order_by("sequence")
    if stream := request.GET.get("stream", ""):
        if stream not in JobLog.Stream.values:
            raise BadRequest(f"'stream' is one of {', '.join(JobLog.Stream.values)}.")
        rows = rows.filter(stream=stream)
    found, size = list(rows[: MOST_ROWS + 1]), 0
    kept: list[JobLog] = []
    for row in found[:MOST_ROWS]:
        size += len(row.data)
        if kept and size > _LOG_BYTES:
            break
        kept.append(row)
    decoders = {each: getincrementaldecoder("utf-8")(errors="replace") for each in JobLog.Stream.values}
    return {
        "attempt": attempt.number,
        "entries": [
            {"sequence": row.sequence, "stream": row.stream, "text": decoders[row.stream].decode(bytes(row.data))}
            for row in kept
        ],
        "next": kept[-1].sequence if kept else after,
        "is_more": len(kept) < len(found),
        "is_over": attempt.finished_at is not None,
    }


def explain_job(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    found = queue.explain(_job(request, id), quotes_errors=may(request.user, Act.SEE_OUTPUT))
    return {
        "code": str(found.code),
        "summary": str(found.summary),
        "evidence": [str(line) for line in found.evidence],
        "next_step": str(found.next_step),
    }


def list_bulk_acts(request: HttpRequest) -> Any:
    return {"bulk_acts": [_fields(bulk, BULK_ACT) for bulk in visible_bulk_acts(request.user).order_by("-pk")[:50]]}


def begin_bulk_act(request: HttpRequest) -> Any:
    given = json_body(request, {"search": str, "act": str, "reason": str}, needed=("search", "act"))
    bulk = act_on_all(parse(given["search"]), _act(given), user=request.user, reason=given.get("reason", ""))
    return _fields(bulk, BULK_ACT)


def show_bulk_act(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    return _fields(_bulk_act(request, id), BULK_ACT)


def advance_bulk_act(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    bulk = _bulk_act(request, id)
    advance(bulk, user=request.user, seconds=_ADVANCE_SECONDS)
    return _fields(bulk, BULK_ACT)


def stop_bulk_act(request: HttpRequest, id: UUID) -> Any:  # noqa: A002
    bulk = _bulk_act(request, id)
    stop(bulk, user=request.user)
    return _fields(bulk, BULK_ACT)


def list_queues(request: HttpRequest) -> Any:
    found = queue.queue_statistics()
    names = ("queue", "paused", "queued", "scheduled", "running", "retrying", "oldest", "unserved", "finished")
    return {"queues": [{name: getattr(found[key], name) for name in names} for key in sorted(found)]}


def act_on_queue(request: HttpRequest) -> Any:
    given = json_body(request, {"queue": str, "act": str, "reason": str}, needed=("queue", "act"))
    if given["act"] not in ("pause", "resume"):
        raise BadRequest("'act' is pause or resume.")
    paused = given["act"] == "pause"
    return {"changed": set_paused(given["queue"], paused=paused, user=request.user, reason=given.get("reason", ""))}


def list_workers(request: HttpRequest) -> Any:
    found = workforce(request.user, using=router.db_for_read(ContainerJob))
    names = ("id", "host", "pid", "queues", "executors", "slots", "started_at", "lease_expires_at")
    return {
        "workers": [
            {
                **{name: getattr(row.worker, name) for name in names},
                "is_live": row.is_live,
                "busy": len(row.attempts),
                "jobs": [attempt.job_id for attempt in row.attempts if attempt.name is not None],
            }
            for row in found.rows
        ]
    }


def _job(request: HttpRequest, key: UUID) -> ContainerJob:
    job = visible_jobs(request.user).filter(pk=key).first()
    if job is None:
        # As for one that there is not: whether there is one is nobody's business either.
        raise Http404(_("There is no such job, or you may not see it."))
    return job


def _bulk_act(request: HttpRequest, key: UUID) -> BulkAct:
    bulk = visible_bulk_acts(request.user).filter(pk=key).first()
    if bulk is None:
        raise Http404(_("There is no such act, or you may not see it."))
    return bulk


def _act(given: Mapping[str, Any]) -> JobAct:
    try:
        return JobAct(given["act"])
    except ValueError as error:
        raise BadRequest(f"'act' is one of {', '.join(act.value for act in JobAct)}.") from error


def _detail(request: HttpRequest, job: ContainerJob) -> Mapping[str, Any]:
    found = {**_fields(job, DETAILED, besides=("acts",)), "acts": [act.value for act in legal_acts(request.user, job)]}
    if not may(request.user, Act.SEE_ENVIRONMENT):
        found |= {name: dict.fromkeys(found[name]) for name in PRIVATE_FIELDS}
    if not may(request.user, Act.SEE_OUTPUT):
        found |= {"last_error": None}
    return found


def _fields(row: Any, schema: Mapping[str, Any], *, besides: Iterable[str] = ()) -> dict[str, Any]:
    return {name: getattr(row, name) for name in schema if name not in besides}


def _rows(name: str, rows: Any, schema: Mapping[str, Any], *, key: str) -> Mapping[str, Any]:
    found = list(rows[: MOST_ROWS + 1])
    shown = [_fields(row, schema) for row in found[:MOST_ROWS]]
    return {name: shown, "next": shown[-1][key] if len(found) > MOST_ROWS else None}
