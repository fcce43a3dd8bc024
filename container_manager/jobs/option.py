"""`Option`: how the command line offers a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "integer", "number", "size", "flag", "count", "list", "texts", "integers", "sizes"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line.

    ``kind``: what it takes: a text, an integer, a number, a size in bytes ("64k"), nothing ("flag", with its
    ``--no-`` form), a count or "all" (which is -1), or, repeatable, texts ("list") or pairs of a name and a text,
    integer or size.
    ``metavar``: a pair's form is said here, its sign included: ``NAME=VALUE`` or ``PATH:SIZE``.
    """

    flag: str
    metavar: str | None = None
    kind: Kind = "text"
    help: str = ""
