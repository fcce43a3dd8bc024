"""Filters of the dashboard's templates."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import template
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import is_aware, localtime

from ...jobs.printable import LINES, escaped
from ...jobs.progress_lines import Progress, progress_of
from ...models import ContainerJob, JobStatus

register = template.Library()
_SHORT = len("01a2240e-3dcc-72e6")


@register.filter
def plain(value: object) -> str:
    """Return a text with the characters escaped that would change how others are shown; Django escapes the HTML."""
    return "" if value is None else escaped(value)


@register.filter
def plain_lines(value: object) -> str:
    """Do `plain` to a text that may have more than one line."""
    return "" if value is None else escaped(value, allowed=LINES)


@register.filter
def as_json(value: Any) -> str:
    """Return a value as JSON, on one line."""
    return plain(json.dumps(value, ensure_ascii=False))


@register.filter
def progress(value: object) -> Progress | None:
    """Return how far an attempt has come, as its column has it."""
    return progress_of(value)


@register.filter
def short_id(job_id: UUID) -> str:
    """Return the beginning of an id, as the commands show it."""
    return str(job_id)[:_SHORT]


@register.filter
def job_title(job: ContainerJob) -> str:
    return escaped(job.name) or short_id(job.pk)


@register.filter
def badge(status: str) -> SafeString:
    """Return a status as a coloured word."""
    label = JobStatus(status).label if status in JobStatus else escaped(status)
    return format_html('<span class="cd-badge cd-{}">{}</span>', status, label)


@register.filter
def moment(value: Any) -> SafeString | str:
    """Return a time as an element that says when it was; a script adds how long ago."""
    if value is None:
        return ""
    shown = localtime(value) if is_aware(value) else value
    text = date_format(shown, "Y-m-d H:i:s")
    # A naive one is in the server's zone, which the browser does not know.
    return format_html('<time datetime="{}" data-ago>{}</time>', value.isoformat(), text) if is_aware(value) else text


@register.filter
def took(value: timedelta | float | None) -> str:
    """Return how long something took, in its two largest units: ``320 ms``, ``4.2 s``, ``3 min 5 s``, ``2 d 4 h``."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


@register.filter
def item(values: Any, key: Any) -> Any:
    """Return ``values[key]``, None where there is none."""
    return values.get(key)
