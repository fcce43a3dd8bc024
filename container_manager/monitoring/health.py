"""Whether jobs are being run: what a load balancer, a probe or an alert asks."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import Error, router

from ..conf import app_settings
from ..jobs.package_log import package_logger
from ..models import ContainerJob
from ..queue import paused_queues
from ..store import backlog, live_workers, unserved

logger = package_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """``reasons``: a sentence for each thing that is wrong; none: all is well."""

    reasons: tuple[str, ...] = ()
    workers: int = 0

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons


def look_for_trouble(*, using: str | None = None) -> HealthReport:
    """Return whether the database answers, a worker is alive, and all that is due for a while is served by one.

    How long a queue is does not matter: a worker that has much to do is healthy. Nor do paused queues.
    """
    using = using or router.db_for_read(ContainerJob)
    try:
        workers = len(live_workers(using=using))
        reasons = [] if workers else ["No worker is alive: none has a lease that has not expired."]
        return HealthReport(reasons=(*reasons, *_unserved(using)), workers=workers)
    except Error as error:
        # What it says may name hosts and users.
        logger.error("The health view could not ask the database: %s", error)
        return HealthReport(reasons=(f"The database does not answer: {type(error).__name__}.",))


def _unserved(using: str) -> list[str]:
    after, paused = app_settings().unserved_after_seconds, set(paused_queues(using=using))
    waiting = {
        (lane.executor, lane.queue): lane.seconds
        for lane in backlog(limit=1, using=using)
        if lane.queue not in paused and lane.seconds is not None and lane.seconds > after
    }
    return [
        f"No live worker serves executor {executor!r} in queue {queue!r}: a job has been due for "
        f"{waiting[executor, queue]:.0f} s."
        for executor, queue in unserved(sorted(waiting), using=using)
    ]
