"""Which queues there are, for lists of links."""

from __future__ import annotations

from ..conf import app_settings
from ..models import QueueSpan

# So many links.
_MOST_QUEUES = 20


def known_queues(*, using: str) -> list[str]:
    """Return the queues that the settings name, or else the first of those in which anything has happened."""
    if (named := app_settings().queues) is not None:
        return list(named)
    totals = QueueSpan.objects.using(using).filter(length=QueueSpan.TOTAL)
    return list(totals.order_by("queue").values_list("queue", flat=True)[:_MOST_QUEUES])
