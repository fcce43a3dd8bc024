"""Print tables and JSON: plain lines in a pipe; on a terminal rich, where it is installed, fits and colours tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from django.core.management.base import OutputWrapper
from django.utils.timezone import is_naive, make_aware

from ..jobs.printable import escaped
from ..queue import COUNT_LIMIT, Explanation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# By what stands in a cell below one of these headings.
_STYLED = ("STATUS", "FROM", "TO", "WELL")
_STYLES = {
    "completed": "green",
    "failed": "red",
    "running": "cyan",
    "retrying": "yellow",
    "cancelled": "dim",
    "NO": "red",
}


class Output(Protocol):
    """Where a verb prints."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> Any: ...


class Terminal(OutputWrapper):
    """A command's stream that is a terminal, with what renders tables on it."""

    def __init__(self, out: Any, console: Console) -> None:
        super().__init__(out)
        self.console = console


def rich_console(stream: OutputWrapper, options: Mapping[str, Any]) -> Console | None:
    """Return what renders on a command's stream; None if that is no terminal, or rich is not installed.

    rich respects NO_COLOR, and is told of Django's ``--no-color``.
    """
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    out: Any = stream._out
    # What is shown is data: nothing in it is markup.
    return Console(file=out, no_color=options.get("no_color") or None, markup=False, emoji=False, highlight=False)


def output_for(stream: OutputWrapper, options: Mapping[str, Any]) -> OutputWrapper:
    """Return where a verb is to print: the command's stream, with a console if there is one."""
    console = rich_console(stream, options)
    return stream if console is None else Terminal(stream._out, console)


def print_json(out: Output, value: object) -> None:
    out.write(json.dumps(value, indent=2, default=_plain) + "\n")


def print_table(out: Output, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, a line for each row: what is in a cell cannot forge another.

    On a terminal the last column is folded where the line would be too long.
    """
    lines = cells(rows)
    if isinstance(out, Terminal):
        _print_on_terminal(out.console, headings, lines)
        return
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    for line in (headings, *lines):
        out.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n")


def cells(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    """Return the texts of a table's cells, escaped."""
    return [["" if value is None else escaped(value) for value in row] for row in rows]


def _print_on_terminal(console: Console, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    console.print(rich_table(headings, lines))


def rich_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """Return a table for rich; its cells are escaped already."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        is_last = heading == headings[-1]
        table.add_column(Text(heading), no_wrap=not is_last, overflow="fold" if is_last else "ellipsis")
    for line in lines:
        row = zip(headings, line, strict=True)
        table.add_row(*(Text(text, _STYLES.get(text, "") if heading in _STYLED else "") for heading, text in row))
    return table


def print_explanation(out: Output, found: Explanation) -> None:
    """Print an explanation, a line for each of its sentences."""
    out.write(f"{found.summary}\n")
    for line in found.evidence:
        out.write(f"- {line}\n")
    if found.next_step:
        out.write(f"Next: {found.next_step}\n")


def bounded(count: int) -> str:
    """Format a count that goes no further than its limit."""
    return f"{count:,}+" if count >= COUNT_LIMIT else f"{count:,}"


def clock(moment: datetime | None) -> str:
    """Format a time of day in UTC, with milliseconds; a naive one is in Django's default time zone."""
    if moment is None:
        return ""
    aware = make_aware(moment) if is_naive(moment) else moment
    return aware.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return (make_aware(value) if is_naive(value) else value).isoformat()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
