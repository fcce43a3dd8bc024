"""Times of the database and lengths of time in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.utils.timezone import is_naive, make_aware
from django.utils.translation import gettext as _


def moment(at: datetime, now: datetime | None = None) -> str:
    """Write a time, in UTC; with ``now`` also how long ago it was, or in how long it is."""
    text = _aware(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if now is None:
        return text
    seconds = (_aware(now) - _aware(at)).total_seconds()
    form = _("%(time)s (%(length)s ago)") if seconds >= 0 else _("%(time)s (in %(length)s)")
    return form % {"time": text, "length": length(abs(seconds))}


def length(seconds: float) -> str:
    """Write a length of time in one unit, the largest of which there are at least two."""
    for unit, text in ((86400, _("%d days")), (3600, _("%d h")), (60, _("%d min"))):
        if seconds >= 2 * unit:
            return text % (seconds // unit)
    return _("%d s") % seconds


def between(start: datetime, end: datetime) -> timedelta:
    """Return the time between two times of the database, aware or naive."""
    return _aware(end) - _aware(start)


def _aware(at: datetime) -> datetime:
    return make_aware(at) if is_naive(at) else at
