# PYTHON_ARGCOMPLETE_OK
"""``python -m container_manager``: the ``container`` command without a Django project, and ``demo``."""

from __future__ import annotations

import os
import sys

from .statemachine.management.streams import usable_streams

_PROGRAM = "python -m container_manager"


def main() -> None:
    with usable_streams():
        _main()


def _main() -> None:
    if sys.argv[1:2] == ["demo"]:
        from .cli import demo

        sys.exit(demo.main(sys.argv[2:]))
    from .cli.standalone import Unusable, configure

    # Set by the shell that asks how a word goes on.
    completes = "_ARGCOMPLETE" in os.environ
    try:
        # Help, of all or of a verb, needs no database and leaves none behind; no more does completion.
        configure(database=not completes and {"-h", "--help"}.isdisjoint(sys.argv[1:3]))
    except Unusable as error:
        sys.exit(f"{error}")
    from .management.commands.container import Command

    command = Command(prog=_PROGRAM)
    if completes:
        import argcomplete

        argcomplete.autocomplete(command.create_parser(_PROGRAM, ""))
    command.run_from_argv([_PROGRAM, "", *sys.argv[1:]])


if __name__ == "__main__":
    main()
