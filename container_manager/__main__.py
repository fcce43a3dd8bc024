"""``python -m container_manager``: the ``container`` command without a Django project, and ``demo``."""

from __future__ import annotations

import sys

from .statemachine.streams import usable_streams


def main() -> None:
    with usable_streams():
        _main()


def _main() -> None:
    if sys.argv[1:2] == ["demo"]:
        from .cli import demo

        sys.exit(demo.main(sys.argv[2:]))
    from .cli.standalone import Unusable, configure

    try:
        # Help, of all or of a verb, needs no database and leaves none behind.
        configure(database={"-h", "--help"}.isdisjoint(sys.argv[1:3]))
    except Unusable as error:
        sys.exit(f"{error}")
    from .management.commands.container import Command

    Command(prog="python -m container_manager").run_from_argv(["python -m container_manager", "", *sys.argv[1:]])


if __name__ == "__main__":
    main()
