"""Times that an option gives by their distance from now."""

from __future__ import annotations

from datetime import datetime, timedelta

from ..store import database_now
from .finding import Refused


def from_now(option: str, value: float, unit: timedelta, *, using: str) -> datetime:
    """Return the time that is ``value`` units from now, by the database's clock.

    Raises Refused for one that no calendar has.
    """
    try:
        return database_now(using=using) + value * unit
    except (ValueError, OverflowError) as error:
        raise Refused(f"{option} leads to no date between the years 1 and 9999: {value}.") from error
