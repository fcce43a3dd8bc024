"""Print the state machine's map as Mermaid or DOT."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from ..models import ContainerJob
from ..statemachine.diagram import FORMATS
from ..statemachine.machine import machine_of
from .finding import find_job
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default="mermaid", help="Default: %(default)s.")
    parser.add_argument("--job", help="Mark where this job is.")


def run(options: Mapping[str, Any], out: Output) -> int:
    current = find_job(options, options["job"]).status if options["job"] else None
    out.write(FORMATS[options["format"]](machine_of(ContainerJob).graph, current=current) + "\n")
    return 0
