"""Times that an option gives by their distance from now."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from .finding import Refused


def from_now(option: str, value: float, unit: timedelta) -> datetime:
    """Return the time that is ``value`` units from now. Raises Refused for one that no calendar has."""
    try:
        return timezone.now() + value * unit
    except (ValueError, OverflowError) as error:
        raise Refused(f"{option} leads to no date between the years 1 and 9999: {value}.") from error
