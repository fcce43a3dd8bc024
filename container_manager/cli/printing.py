"""Print tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from django.utils.timezone import is_naive, make_aware

from ..jobs.printable import escaped
from ..queue import Explanation


class Output(Protocol):
    """Where a verb prints."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> Any: ...


def print_json(out: Output, value: object) -> None:
    out.write(json.dumps(value, indent=2, default=_plain) + "\n")


def print_table(out: Output, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, a line for each row: what is in a cell cannot forge another."""
    lines = [[*headings], *([("" if value is None else escaped(value)) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        out.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n")


def print_explanation(out: Output, found: Explanation) -> None:
    """Print an explanation, a line for each of its sentences."""
    out.write(f"{found.summary}\n")
    for line in found.evidence:
        out.write(f"- {line}\n")
    if found.next_step:
        out.write(f"Next: {found.next_step}\n")


def clock(moment: datetime | None) -> str:
    """Format a time of day in UTC, with milliseconds; a naive one is in Django's default time zone."""
    if moment is None:
        return ""
    aware = make_aware(moment) if is_naive(moment) else moment
    return aware.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return (make_aware(value) if is_naive(value) else value).isoformat()
    return str(value)
