"""An attempt's output: its end on the job's page, what came since, and all of it to download."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.utils.translation import gettext as _

from ..jobs.printable import LINES, escaped
from ..models import JobAttempt, JobLog
from .access import Act, visible_jobs
from .page import page

# What one answer has, at most.
_ROWS, _BYTES = 200, 256 * 1024
_DOWNLOADED_ROWS = 16
# Colours and other ways to show text: nothing is lost without them.
_COLOURS = re.compile("\x1b\\[[0-9;:]*m")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """A row of the log as text that is safe to show."""

    sequence: int
    stream: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """The end of an attempt's output; ``is_cut``: there is more before it."""

    number: int
    parts: Sequence[LogPart]
    is_cut: bool

    @property
    def last(self) -> int:
        """The last row's number; -1 if there is none."""
        return self.parts[-1].sequence if self.parts else -1


def last_lines(attempt: JobAttempt) -> LogEnd:
    """Return the end of what an attempt has printed."""
    rows, size = list(attempt.logs.order_by("-sequence")[:_ROWS]), 0
    kept: list[JobLog] = []
    for row in rows:
        size += len(row.data)
        if kept and size > _BYTES:
            break
        kept.append(row)
    is_cut = len(kept) < len(rows) or len(rows) == _ROWS
    return LogEnd(number=attempt.number, parts=list(_parts(kept[::-1])), is_cut=is_cut)


@page(Act.SEE_OUTPUT)
def log(request: HttpRequest, key: UUID) -> HttpResponse:
    """Return as JSON what an attempt has printed after a row: ``attempt`` and ``after`` of the query string."""
    try:
        number, after = int(request.GET.get("attempt", "0")), int(request.GET.get("after", "-1"))
    except ValueError:
        return HttpResponseBadRequest("'attempt' and 'after' are numbers.", content_type="text/plain")
    job = _job(request, key)
    # Read before the output, so that what was printed before the end is not missed.
    attempts = job.attempts.filter(number=number) if number else job.attempts.order_by("-number")
    attempt = attempts.first()
    if attempt is None:
        return JsonResponse({"attempt": 0, "parts": [], "more": False, "newest": job.attempt, "over": job.is_finished})
    rows = list(attempt.logs.filter(sequence__gt=after).order_by("sequence")[:_ROWS])
    size, kept = 0, list[JobLog]()
    for row in rows:
        size += len(row.data)
        if kept and size > _BYTES:
            break
        kept.append(row)
    return JsonResponse(
        {
            "attempt": attempt.number,
            "parts": [{"sequence": p.sequence, "stream": p.stream, "text": p.text} for p in _parts(kept)],
            "more": len(kept) < len(rows) or len(rows) == _ROWS,
            "newest": job.attempt,
            "over": attempt.finished_at is not None,
        }
    )


@page(Act.SEE_OUTPUT)
def log_file(request: HttpRequest, key: UUID, number: int) -> StreamingHttpResponse:
    """Send an attempt's output, byte for byte; ``stream`` of the query string: only that one."""
    job = _job(request, key)
    attempt = job.attempts.filter(number=number).first()
    if attempt is None:
        raise Http404(_("The job has no such attempt."))
    rows = JobLog.objects.using(job._state.db).filter(attempt=attempt)
    if stream := request.GET.get("stream"):
        rows = rows.filter(stream=stream)
    response = StreamingHttpResponse(_bytes(rows), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="job-{key}-{number}.log"'
    return response


def _job(request: HttpRequest, key: UUID) -> Any:
    job = visible_jobs(request.user).filter(pk=key).only("attempt", "status").first()
    if job is None:
        raise Http404(_("There is no such job, or you may not see it."))
    return job


def _parts(rows: Iterable[JobLog]) -> Iterator[LogPart]:
    """Yield rows as text: UTF-8 where it is, and without what would change how other text is shown."""
    decoders = {stream: getincrementaldecoder("utf-8")(errors="replace") for stream in JobLog.Stream.values}
    for row in rows:
        text = decoders[row.stream].decode(bytes(row.data))
        shown = escaped(_COLOURS.sub("", text.replace("\r\n", "\n")), allowed=LINES)
        yield LogPart(sequence=row.sequence, stream=row.stream, text=shown)


def _bytes(rows: QuerySet[JobLog]) -> Iterator[bytes]:
    """Yield what the rows hold, a few at a time. No cursor on the server, which a pooler would lose."""
    after = -1
    while batch := list(rows.filter(sequence__gt=after).order_by("sequence")[:_DOWNLOADED_ROWS]):
        yield from (bytes(row.data) for row in batch)
        after = batch[-1].sequence
