"""Run the soak on one database, print what was counted, and end with 1 where something is wrong."""

from __future__ import annotations

import argparse
import sys

from ..chaos.databases import DATABASES, installation
from . import mix, scale
from .workers import say

_LEASE_SECONDS = 30.0
_PARTS = {"mix": mix.run, "scale": scale.run}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("database", choices=sorted(DATABASES))
    parser.add_argument("--only", choices=sorted(_PARTS), action="append", help="run this part alone")
    arguments = parser.parse_args()
    problems: list[str] = []
    for name in arguments.only or _PARTS:
        say(f"{arguments.database}, {name}")
        with installation(arguments.database, lease_seconds=_LEASE_SECONDS) as (folder, database):
            problems += _PARTS[name](folder, database)
    for problem in problems:
        say(problem)
    say(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
