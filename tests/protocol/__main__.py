"""Check the protocol, or show what goes wrong without a guard: ``python -m tests.protocol [GUARD …]``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from .model import Guards, check


def main(arguments: list[str]) -> int:
    """Print the result, with the steps that lead to a problem; return 1 if there is one."""
    names = [field.name for field in fields(Guards)]
    parser = argparse.ArgumentParser(prog="python -m tests.protocol", description=__doc__)
    parser.add_argument("missing", nargs="*", metavar="GUARD", help=f"A guard to take away: {', '.join(names)}.")
    missing = parser.parse_args(arguments).missing
    if unknown := sorted(set(missing) - set(names)):
        parser.error(f"there is no guard {unknown[0]}")
    result = check(Guards(**dict.fromkeys(missing, False)))
    lines = [f"{result.states} states, {result.steps} steps: {result.problem or 'no problem'}"]
    lines += [f"{number:4}. {label}" for number, label in enumerate(result.trace, start=1)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if result.problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
