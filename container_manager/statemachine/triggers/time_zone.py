"""The time zone in which a database without zones of its own stores times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from django.db import NotSupportedError


@cache
def utc_offset(zone: str | None) -> int:
    """Return how many seconds a zone is ahead of UTC.

    Raises NotSupportedError for a zone whose offset changes. Each year its local time repeats an hour, so that stored
    times cannot be compared: a due job would wait, and a lease would expire early.
    """
    if zone is None:
        raise NotSupportedError("TIME_ZONE is None: the triggers cannot know the zone in which times are stored.")
    now = datetime.now(UTC)
    # A year back and two ahead. By day: Africa/Casablanca leaves its offset for a month.
    found = {(now + timedelta(days=day)).astimezone(ZoneInfo(zone)).utcoffset() for day in range(-365, 731)}
    if len(found) != 1:
        raise NotSupportedError(f"Times are stored in {zone}, whose UTC offset changes: they are ambiguous.")
    return int((found.pop() or timedelta()).total_seconds())
