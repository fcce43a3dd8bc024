"""How far a job has come, as it says itself: lines ``n/total text`` in a file that may have anything in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .printable import escaped

# How much of the end of a job's file is looked at.
PROGRESS_BYTES = 4096
_MOST_CHARACTERS = 200
# Numbers that every reader of JSON has room for.
_LINE = re.compile(r"([0-9]{1,15})/([0-9]{1,15})(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done`` of ``total``, which is at least 1, and in words what it does: one printable line, perhaps empty."""

    done: int
    total: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.done}/{self.total} {self.text}".rstrip()


def whole_lines(data: bytes, *, is_cut: bool) -> bytes:
    """Return the end of a file without the line that was cut in two, if it is not all of the file."""
    return data.partition(b"\n")[2] if is_cut else data


def latest_progress(data: bytes, *, masked: Callable[[str], str] | None = None) -> Progress | None:
    """Return what the last line says that is complete and well-formed; None if there is none.

    ``masked``: takes the secrets out of a text; None: there are none.
    """
    text = data.decode(errors="replace")
    # First: what is cut off or escaped would be found no more.
    lines = (text if masked is None else masked(text)).split("\n")
    # The last one has no end yet.
    return next(filter(None, map(_parsed, reversed(lines[:-1]))), None)


def progress_of(value: object) -> Progress | None:
    """Return the progress that a column has; None for anything else there, since rows can be written by SQL."""
    if not isinstance(value, Mapping):
        return None
    done, total, text = value.get("done"), value.get("total"), value.get("text")
    # Not a bool, which is an int too.
    if type(done) is not int or type(total) is not int or not isinstance(text, str) or done < 0 or total < 1:
        return None
    return Progress(done=done, total=total, text=escaped(text)[:_MOST_CHARACTERS])


def progress_json(value: object) -> dict[str, Any] | None:
    """Return for JSON what `progress_of` returns."""
    found = progress_of(value)
    return None if found is None else asdict(found)


def _parsed(line: str) -> Progress | None:
    found = _LINE.fullmatch(line.strip())
    if found is None or not int(found[2]):
        return None
    text = escaped(found[3] or "")[:_MOST_CHARACTERS]
    return Progress(done=int(found[1]), total=int(found[2]), text=text)
