"""What Linux and engines take: sizes of commands, variables, paths and labels, and ranges of numbers.

A job that is larger is refused where it is given, and at its launch before anything is sent: no engine gets to see it,
and none seems to be away because of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

# An argument or variable of a program, without the NUL byte at its end (MAX_ARG_STRLEN).
_WORD_BYTES = 128 * 1024 - 1
# All of them: a quarter of the default limit of the stack, which holds them and a pointer to each.
_ALL_BYTES, _POINTER_BYTES = 2 * 1024 * 1024, 8
# What a character has at most in UTF-8.
_CHARACTER_BYTES = 4
# A path, and each name in it (PATH_MAX without its NUL byte, NAME_MAX). Docker follows no more names.
_PATH_BYTES, _NAME_BYTES, _PATH_NAMES = 4095, 255, 255
# A daemon sends all labels with each list of its containers, and with each of their events.
_LABEL_BYTES, _PREFIX_BYTES = 16 * 1024, 32
# Linux can be built for that many.
MOST_CPUS = 8192
# Both fit the columns of every database, and what timers take.
MOST_SECONDS = 2**31 - 1
_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


def bytes_of(text: str) -> int:
    """Return how many bytes ``65536``, ``64k`` or ``1g`` are. Raises ValueError for another text."""
    number, unit = (text[:-1], _UNITS[text[-1].lower()]) if text[-1:].lower() in _UNITS else (text, 1)
    if not number.isdecimal():
        raise ValueError(_("%r is no size such as 65536, 64k or 1g") % text)
    return int(number) * unit


def check_sizes(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Raise ValueError where a program cannot get all of these: a word, a variable, or all together are too large."""
    texts = (*argv, *environment, *environment.values())
    # Most are so few characters that nothing can be too large. To join the texts is the fastest way to count them.
    if len("".join(texts)) * _CHARACTER_BYTES + len(texts) * (_POINTER_BYTES + 1) <= _WORD_BYTES:
        return
    total = 0
    for number, word in enumerate(argv, start=1):
        total += (size := text_bytes(word)) + _POINTER_BYTES + 1
        if size > _WORD_BYTES:
            text = _("Word %(number)s of the command has %(size)s bytes; a program can get at most %(most)s in one.")
            raise _too_long(text, number=number, size=size, most=_WORD_BYTES)
    for name, value in environment.items():
        total += (size := text_bytes(name) + text_bytes(value) + 1) + _POINTER_BYTES + 1
        if size > _WORD_BYTES:
            text = _(
                "The variable %(name)r has %(size)s bytes with its name; a program can get at most %(most)s in one."
            )
            raise _too_long(text, name=name[:_NAME_BYTES], size=size, most=_WORD_BYTES)
    if total > _ALL_BYTES:
        text = _("Command and environment have %(size)s bytes together; a program can get at most %(most)s.")
        raise _too_long(text, size=total, most=_ALL_BYTES)


def _too_long(text: Promise | str, **values: object) -> ValueError:
    return ValueError(f"{text % values} {_('Pass long input in a file.')}")


def check_path(path: str) -> None:
    """Raise ValueError where a path is longer than a kernel or an engine follows."""
    if text_bytes(path) <= _NAME_BYTES:
        # Then no name is longer, nor are there more of them.
        return
    names = [name for name in path.split("/") if name]
    for found, most, unit in (
        (text_bytes(path), _PATH_BYTES, _("bytes")),
        (max(map(text_bytes, names), default=0), _NAME_BYTES, _("bytes in one of its names")),
        (len(names), _PATH_NAMES, _("names")),
    ):
        if found > most:
            text = _("A path can have at most %(most)s %(unit)s, not %(found)s.")
            raise ValueError(text % {"most": most, "unit": unit, "found": found})


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise ValueError where labels are larger than they may be, with what an engine's prefix adds to each."""
    size = sum(text_bytes(name) + text_bytes(str(value)) + _PREFIX_BYTES for name, value in labels.items())
    if size > _LABEL_BYTES:
        text = _(
            "The labels have %(size)s bytes, counting %(prefix)s more for each; at most %(most)s are allowed. "
            "Keep what is longer in a table of your own."
        )
        raise ValueError(text % {"size": size, "prefix": _PREFIX_BYTES, "most": _LABEL_BYTES})


def text_bytes(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
