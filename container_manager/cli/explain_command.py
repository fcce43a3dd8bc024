"""Say why a job waits, what it does now, or why it ended as it did, and what to do."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..queue import explain
from .finding import find_job
from .printing import Output, print_explanation, print_json


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="An id, its beginning, or a name.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    found = explain(find_job(options, options["job"]), using=options["database"])
    if options["json"]:
        print_json(out, asdict(found))
    else:
        print_explanation(out, found)
    return 0
