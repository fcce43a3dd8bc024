"""``manage.py statemachine``: the triggers and the diagram of any model with a state machine."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, InterfaceError, InternalError, NotSupportedError, OperationalError
from django.db.models import Model
from django.utils.connection import ConnectionDoesNotExist

from ...diagram import FORMATS
from ...exceptions import UnknownState
from ...graph import State
from ...installation import compare_triggers
from ...machine import Machine, machine_of
from ..streams import StreamsCommand


class Command(StreamsCommand):
    """Compare and install triggers, print diagrams."""

    help = "Compare and install the triggers of state machines, print their diagrams."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        triggers = verbs.add_parser("triggers", help="Compare the database's triggers with the maps.")
        triggers.add_argument("--install", action="store_true", help="Install what is missing or differs.")
        triggers.add_argument("--database", default="default", help="Database alias. Default: %(default)s.")
        diagram = verbs.add_parser("diagram", help="Print a model's map.")
        diagram.add_argument("model", help="app_label.Model")
        diagram.add_argument("--format", choices=FORMATS, default="mermaid", help="Default: %(default)s.")
        diagram.add_argument("--state", help="Mark this state.")

    def execute(self, *args: Any, **options: Any) -> str | None:
        # Not in `handle`: system checks ask the database too.
        using = options.get("database", DEFAULT_DB_ALIAS)
        try:
            return super().execute(*args, **options)
        except (NotSupportedError, ConnectionDoesNotExist) as error:
            raise CommandError(str(error)) from error
        except (OperationalError, InterfaceError, InternalError) as error:
            raise CommandError(f"The database {using!r} did not answer, or refused this: {error}") from error

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        if verb == "diagram":
            self._diagram(options["model"], options["format"], options["state"])
        elif not compare_triggers(using=options["database"], install=options["install"], write=self.stdout.write):
            sys.exit(1)

    def _diagram(self, label: str, style: str, state: str | None) -> None:
        try:
            model: type[Model] = apps.get_model(label)
            machine = machine_of(model)
            current = None if state is None else _state(machine, state)
        except (LookupError, ValueError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(FORMATS[style](machine.graph, current=current))


def _state(machine: Machine, text: str) -> State:
    """Return the state that a text names.

    Raises UnknownState.
    """
    for state in machine.graph.states:
        if str(state) == text:
            return state
    raise UnknownState(text, machine.graph.states)
