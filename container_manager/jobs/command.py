"""Split a command's text into its arguments."""

from __future__ import annotations

import re

# A text without quotes and backslashes, in single quotes, or in double quotes; a character after a backslash; space;
# what is none of these is the beginning of something that does not end. Each is possessive: otherwise the time could
# grow faster than the text.
_PIECE = re.compile(
    r"""([^ \t\r\n'"\\]++)|'([^']*+)'|"((?:[^"\\]++|\\.)*+)"|\\(.)|([ \t\r\n]++)|(.)""",
    re.DOTALL,
)
_DOUBLE, _SPACE, _UNFINISHED = 3, 5, 6
# Characters that need no quoting in a shell, and spaces.
_PLAIN = re.compile(r"[\w@%+=:,./ -]*", re.ASCII)


def split_command(command: str) -> list[str]:
    """Split a command as a POSIX shell would; variables and the like are not expanded.

    It does what ``shlex.split`` does, whose time grows with the square of the length: 16 s for a million characters.
    Raises ValueError where the quoting is broken.
    """
    # Most commands have no quotes.
    if _PLAIN.fullmatch(command):
        return command.split()
    words: list[str] = []
    # The word that has begun; None between two.
    word: str | None = None
    for piece in _PIECE.finditer(command):
        kind = piece.lastindex or 0
        text = piece[kind]
        if kind == _SPACE:
            if word is not None:
                words.append(word)
            word = None
            continue
        if kind == _UNFINISHED:
            raise ValueError("No escaped character" if text == "\\" else "No closing quotation")
        if kind == _DOUBLE:
            # There a backslash means something only before a quote or another one.
            text = "\\".join(part.replace('\\"', '"') for part in text.split("\\\\"))
        word = text if word is None else word + text
    return words if word is None else [*words, word]
