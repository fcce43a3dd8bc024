"""Run the soak on one database, print what was counted, and end with 1 where something is wrong."""

from __future__ import annotations

import argparse
import sys

from ..chaos.databases import DATABASES, installation
from . import mix

_LEASE_SECONDS = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("database", choices=sorted(DATABASES))
    arguments = parser.parse_args()
    with installation(arguments.database, lease_seconds=_LEASE_SECONDS) as (folder, _):
        problems = mix.run(folder)
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    sys.stdout.write(f"{len(problems)} problems\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
