"""Compare the database's triggers with the state machine, or reinstall them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from ..statemachine.installation import compare_triggers
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--install", action="store_true", help="Install what is missing or differs.")


def run(options: Mapping[str, Any], out: Output) -> int:
    return 0 if compare_triggers(using=options["database"], install=options["install"], write=out.write) else 1
