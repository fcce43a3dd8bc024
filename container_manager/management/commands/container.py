"""``manage.py container VERB``: the verbs known from docker."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter
from django.db import NotSupportedError
from django.utils.connection import ConnectionDoesNotExist

from ...cli.database_errors import EXPECTED_ERRORS, explained_error
from ...cli.finding import Refused
from ...cli.printing import output_for
from ...cli.verbs import VERBS
from ...jobs.printable import LINES, escaped
from ...statemachine import TransitionError
from ...statemachine.management.streams import StreamsCommand


class Command(StreamsCommand):
    """Run, watch and end container jobs."""

    help = "Run, watch and end container jobs."

    def __init__(self, *args: Any, prog: str | None = None, **kwargs: Any) -> None:
        self._prog = prog
        super().__init__(*args, **kwargs)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        if self._prog is not None:
            parser.prog = self._prog
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        common = _django_options()
        for name, verb in VERBS.items():
            described = (verb.__doc__ or "").strip().splitlines()[0]
            subparser = verbs.add_parser(
                name, help=described, description=described, parents=[common], formatter_class=DjangoHelpFormatter
            )
            subparser.add_argument("--database", default="default", help="Database alias. Default: %(default)s.")
            verb.add_arguments(subparser)

    def execute(self, *args: Any, **options: Any) -> str | None:
        if options.get("verb") == "run-task":
            # A task has its worker's settings, and not what they name on its worker's host: the way to a cluster, say.
            options["skip_checks"] = True
        # Not in `handle`: system checks ask the database too.
        try:
            return super().execute(*args, **options)
        except EXPECTED_ERRORS as error:
            if (sentence := explained_error(error, using=options["database"])) is None:
                raise
            raise _shown(sentence) from error
        except ConnectionDoesNotExist as error:
            raise _shown(f"There is no database {options['database']!r} in the settings.") from error

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        try:
            code = VERBS[verb].run({**options, "err": self.stderr}, output_for(self.stdout, options))
        except ValidationError as error:
            raise _shown("; ".join(_lines(error))) from error
        except (Refused, ImproperlyConfigured, NotSupportedError, TransitionError) as error:
            raise _shown(str(error)) from error
        except UnicodeEncodeError as error:
            raise CommandError(f"This is no text that can be stored: {error.object!r}.") from error
        if code:
            sys.exit(code)


def _django_options() -> ArgumentParser:
    """Return a parser of Django's own options, for verbs to inherit: they may stand before a verb and after it."""
    parser = BaseCommand().create_parser("", "", add_help=False)
    for action in parser._actions:
        # A default of the verb's would replace what was given before the verb.
        action.default = SUPPRESS
    return parser


def _shown(text: str) -> CommandError:
    """Return an error that may quote anything: a job, an engine, the database."""
    return CommandError(escaped(text, allowed=LINES))


def _lines(error: ValidationError) -> list[str]:
    if hasattr(error, "error_dict"):
        return [f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()]
    return list(error.messages)
