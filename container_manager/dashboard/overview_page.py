"""The overview: what waits, what runs, what failed, and how fast it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.formats import number_format
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext as _

from ..models import ContainerJob
from ..queue import COUNT_LIMIT, Activity, activity, counts_by_status, paused_queues
from ..store import backlog
from .charts import stacked_bars, value_lines
from .live import live_page
from .page import page, page_context
from .workforce import Workforce, workforce

# What the charts show, and the span of a bar.
_SPANS = {
    "1h": (timedelta(hours=1), timedelta(minutes=1)),
    "6h": (timedelta(hours=6), timedelta(minutes=5)),
    "24h": (timedelta(hours=24), timedelta(minutes=30)),
    "7d": (timedelta(days=7), timedelta(hours=3)),
}
_PERCENTILES = (50, 95)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """What waits in a queue for an executor; ``oldest_seconds``: for how long the first has been due."""

    queue: str
    executor: str
    due: str
    later: str
    oldest_seconds: float | None
    is_paused: bool
    is_served: bool


@page()
def overview(request: HttpRequest) -> HttpResponse:
    """Show the present of all queues and workers, and the last hours as charts."""
    using = router.db_for_read(ContainerJob)
    span = request.GET.get("span") if request.GET.get("span") in _SPANS else "1h"
    length, step = _SPANS[str(span)]
    found = workforce(request.user, using=using)
    context = {
        **page_context("overview", _("Overview"), interval=2),
        "counts": [(status, capped(number)) for status, number in counts_by_status(using=using).items()],
        "depths": _depths(found, using),
        "found": found,
        "span": span,
        "spans": list(_SPANS),
        **_charts(activity(since=length, step=step, now=found.now, using=using), with_date=length > timedelta(days=1)),
    }
    regions = {name: f"container_manager_dashboard/overview_{name}.html" for name in ("counts", "charts", "workers")}
    return live_page(request, "container_manager_dashboard/overview.html", context, regions=regions)


def capped(number: int) -> str:
    """Return a count as a text: nothing is counted beyond the limit."""
    return number_format(number, use_l10n=True, force_grouping=True) + ("+" if number >= COUNT_LIMIT else "")


def _depths(found: Workforce, using: str) -> Sequence[QueueDepth]:
    paused = set(paused_queues(using=using))
    live = [row.worker for row in found.rows if row.is_live]
    return [
        QueueDepth(
            queue=lane.queue,
            executor=lane.executor,
            due=capped(lane.due),
            later=capped(lane.later),
            oldest_seconds=lane.seconds,
            is_paused=lane.queue in paused,
            is_served=any(worker.serves(lane.executor, lane.queue) for worker in live),
        )
        for lane in sorted(backlog(limit=COUNT_LIMIT, using=using), key=lambda lane: (lane.queue, lane.executor))
    ]


def _charts(spans: Sequence[Activity], *, with_date: bool) -> dict[str, Any]:
    labels = [_label(each.start, with_date=with_date) for each in spans]
    ended = [{"completed": s.completed, "failed": s.failed, "cancelled": s.cancelled} for s in spans]
    return {
        "throughput": stacked_bars(list(zip(labels, ended, strict=True))),
        "waits": value_lines(
            [(label, [s.wait.percentile(p) for p in _PERCENTILES]) for label, s in zip(labels, spans, strict=True)]
        ),
        "runs": value_lines(
            [(label, [s.run.percentile(p) for p in _PERCENTILES]) for label, s in zip(labels, spans, strict=True)]
        ),
        "totals": {name: sum(each[name] for each in ended) for name in ("completed", "failed", "cancelled")},
    }


def _label(start: datetime | None, *, with_date: bool) -> str:
    if start is None:
        return ""
    shown = localtime(start) if is_aware(start) else start
    return shown.strftime("%m-%d %H:%M" if with_date else "%H:%M")
