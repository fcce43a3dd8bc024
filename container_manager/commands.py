"""A command's text as the list of arguments that it stands for."""

from __future__ import annotations

import re
import shlex

# What a shell takes as it stands, and the space between.
_PLAIN = re.compile(r"[\w@%+=:,./ -]*", re.ASCII)


def split_command(command: str) -> list[str]:
    """Split a command as a POSIX shell would; variables and the like are not expanded.

    Raises ValueError where the quoting is broken.
    """
    # Most commands have no quotes, and shlex takes ten times as long.
    return command.split() if _PLAIN.fullmatch(command) else shlex.split(command)
