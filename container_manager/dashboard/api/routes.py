"""`ROUTES`: the one declaration of the API, from which its URLs, its checks and the OpenAPI document derive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..access import Act
from . import handlers
from .schemas import NUMBER, TEXT, Schema, ref

_SIZE: Schema = {"type": "integer", "minimum": 1, "maximum": handlers.MOST_ROWS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. ``act``: the permission without which it is refused at once; a handler may ask for more.

    ``query``, ``body``, ``answer``: what it takes and returns.
    """

    name: str
    method: str
    path: str
    summary: str
    handler: Callable[..., Any]
    answer: Schema
    act: Act = Act.VIEW
    body: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    status: int = 200


_AFTER: Mapping[str, Schema] = {"after": NUMBER}
_JOB = "jobs/{id}"
ROUTES = (
    Route(
        name="list_jobs",
        method="GET",
        path="jobs",
        summary="A page of the jobs that match a search.",
        handler=handlers.list_jobs,
        query={"search": TEXT, "cursor": TEXT, "size": _SIZE},
        answer=ref("Page"),
    ),
    Route(
        name="submit_job",
        method="POST",
        path="jobs",
        summary="Enqueue a job.",
        handler=handlers.submit_job,
        act=Act.SUBMIT,
        body="NewJob",
        answer=ref("Job"),
        status=201,
    ),
    Route(
        name="count_jobs",
        method="GET",
        path="jobs/count",
        summary="How many jobs match a search, counted up to 10,000.",
        handler=handlers.count_jobs,
        query={"search": TEXT},
        answer=ref("Count"),
    ),
    Route(
        name="act_on_selected",
        method="POST",
        path="jobs/acts",
        summary="Act on some jobs.",
        handler=handlers.act_on_selected,
        body="SelectedAct",
        answer=ref("Acted"),
    ),
    Route(name="show_job", method="GET", path=_JOB, summary="A job.", handler=handlers.show_job, answer=ref("Job")),
    Route(
        name="list_transitions",
        method="GET",
        path=f"{_JOB}/transitions",
        summary="The journal of a job.",
        handler=handlers.list_transitions,
        query=_AFTER,
        answer=ref("Transitions"),
    ),
    Route(
        name="list_attempts",
        method="GET",
        path=f"{_JOB}/attempts",
        summary="The attempts of a job.",
        handler=handlers.list_attempts,
        query=_AFTER,
        answer=ref("Attempts"),
    ),
    Route(
        name="read_log",
        method="GET",
        path=f"{_JOB}/log",
        summary="What an attempt has printed; the last attempt if none is named.",
        handler=handlers.read_log,
        act=Act.SEE_OUTPUT,
        query={"attempt": NUMBER, "after": NUMBER, "stream": TEXT},
        answer=ref("Log"),
    ),
    Route(
        name="explain_job",
        method="GET",
        path=f"{_JOB}/explanation",
        summary="Why a job waits, or why it ended as it did.",
        handler=handlers.explain_job,
        answer=ref("Explanation"),
    ),
    Route(
        name="act_on_job",
        method="POST",
        path=f"{_JOB}/acts",
        summary="Act on a job. Returns the job to show then: a new one where a finished job is run again.",
        handler=handlers.act_on_job,
        body="JobAct",
        answer=ref("Job"),
    ),
    Route(
        name="list_bulk_acts",
        method="GET",
        path="bulk-acts",
        summary="The latest acts on all that match.",
        handler=handlers.list_bulk_acts,
        answer=ref("BulkActs"),
    ),
    Route(
        name="begin_bulk_act",
        method="POST",
        path="bulk-acts",
        summary="Begin to act on all jobs that match a search.",
        handler=handlers.begin_bulk_act,
        body="NewBulkAct",
        answer=ref("BulkAct"),
        status=201,
    ),
    Route(
        name="show_bulk_act",
        method="GET",
        path="bulk-acts/{id}",
        summary="How far an act on all that match has come.",
        handler=handlers.show_bulk_act,
        answer=ref("BulkAct"),
    ),
    Route(
        name="advance_bulk_act",
        method="POST",
        path="bulk-acts/{id}/advance",
        summary="Do some of it now; otherwise the workers do it in the background.",
        handler=handlers.advance_bulk_act,
        answer=ref("BulkAct"),
    ),
    Route(
        name="stop_bulk_act",
        method="POST",
        path="bulk-acts/{id}/stop",
        summary="End it where it is.",
        handler=handlers.stop_bulk_act,
        answer=ref("BulkAct"),
    ),
    Route(
        name="list_queues",
        method="GET",
        path="queues",
        summary="The queues, and what waits in them.",
        handler=handlers.list_queues,
        answer=ref("Queues"),
    ),
    Route(
        name="act_on_queue",
        method="POST",
        path="queues/acts",
        summary="Pause a queue or resume it.",
        handler=handlers.act_on_queue,
        act=Act.PAUSE_QUEUES,
        body="QueueAct",
        answer=ref("Changed"),
    ),
    Route(
        name="list_workers",
        method="GET",
        path="workers",
        summary="The workers, and what they run.",
        handler=handlers.list_workers,
        answer=ref("Workers"),
    ),
)
