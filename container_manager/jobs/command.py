"""A command's text as the list of arguments that it stands for."""

from __future__ import annotations

import re
import shlex

# What a shell takes as it stands, and the space between.
_PLAIN = re.compile(r"[\w@%+=:,./ -]*", re.ASCII)
# No kernel takes a longer argument (Linux: 128 KiB), and the time that shlex takes for one grows with its square: 16 s
# for a million characters.
_QUOTED_CHARACTERS = 128 * 1024


def split_command(command: str) -> list[str]:
    """Split a command as a POSIX shell would; variables and the like are not expanded.

    Raises ValueError where the quoting is broken, or the command too long.
    """
    # Most commands have no quotes, and shlex takes ten times as long.
    if _PLAIN.fullmatch(command):
        return command.split()
    if len(command) > _QUOTED_CHARACTERS:
        raise ValueError(f"with quotes it has at most {_QUOTED_CHARACTERS} characters, not {len(command)}")
    return shlex.split(command)
