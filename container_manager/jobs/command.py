"""Split a command's text into its arguments."""

from __future__ import annotations

import re
import shlex

# Characters that need no quoting in a shell, and spaces.
_PLAIN = re.compile(r"[\w@%+=:,./ -]*", re.ASCII)
# Linux takes no longer argument (128 KiB). The time of shlex grows with the square of the length: 16 s for a million
# characters.
_QUOTED_CHARACTERS = 128 * 1024


def split_command(command: str) -> list[str]:
    """Split a command as a POSIX shell would; variables and the like are not expanded.

    Raises ValueError where the quoting is broken, or the command too long.
    """
    # Most commands have no quotes, and shlex is ten times slower.
    if _PLAIN.fullmatch(command):
        return command.split()
    if len(command) > _QUOTED_CHARACTERS:
        raise ValueError(f"with quotes it has at most {_QUOTED_CHARACTERS} characters, not {len(command)}")
    return shlex.split(command)
