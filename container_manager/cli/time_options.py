"""Times that an option gives by their distance from now, or as they are."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.conf import settings
from django.utils.dateparse import parse_datetime
from django.utils.timezone import get_default_timezone, is_naive, make_aware, make_naive

from ..store import database_now
from .finding import Refused

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def from_now(option: str, value: float, unit: timedelta, *, using: str) -> datetime:
    """Return the time that is ``value`` units from now, by the database's clock.

    Raises Refused for one that no calendar has.
    """
    try:
        return database_now(using=using) + value * unit
    except (ValueError, OverflowError) as error:
        raise Refused(f"{option} leads to no date between the years 1 and 9999: {value}.") from error


def time_option(option: str, text: str, *, using: str) -> datetime:
    """Return the time that a text means: how long ago (``90s``, ``2h``, ``7d``), or a time of ISO 8601.

    A time without an offset is in Django's default time zone. Raises Refused.
    """
    if found := _DURATION.fullmatch(text.strip()):
        try:
            unit = timedelta(**{_UNITS[found[2]]: -1})
            return from_now(option, float(found[1]), unit, using=using)
        except OverflowError as error:
            raise Refused(f"{option} leads to no date between the years 1 and 9999: {text}.") from error
    try:
        at = parse_datetime(text.strip())
    except ValueError:
        at = None
    if at is None:
        raise Refused(
            f"{option} takes how long ago, such as 90s, 2h or 7d, or a time such as 2026-01-31T22:00, not {text!r}."
        )
    aware = make_aware(at, get_default_timezone()) if is_naive(at) else at
    return aware if settings.USE_TZ else make_naive(aware, get_default_timezone())
