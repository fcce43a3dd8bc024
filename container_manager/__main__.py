"""``python -m container_manager``: the ``container`` command without a Django project, and ``demo``."""

from __future__ import annotations

import sys

from .cli.printing import print_any_text
from .cli.process_end import quiet_on_closed_pipe


def main() -> None:
    if sys.argv[1:2] == ["demo"]:
        from .cli import demo

        print_any_text()
        with quiet_on_closed_pipe():
            sys.exit(demo.main(sys.argv[2:]))
    from .cli.standalone import Unusable, configure

    try:
        configure()
    except Unusable as error:
        sys.exit(f"{error}")
    from .management.commands.container import Command

    Command(prog="python -m container_manager").run_from_argv(["python -m container_manager", "", *sys.argv[1:]])


if __name__ == "__main__":
    main()
