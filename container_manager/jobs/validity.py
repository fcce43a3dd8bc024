"""What the values of a job must be: one table of checks, for who submits a job and for the worker that launches it.

Not in it: whether the submitter may have a secret, and what is about enqueueing alone (`models.job_validation`). Nor
the size of a task's arguments: it is held where they come in, since by its launch a claim has read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from django.utils.translation import gettext_lazy as _

from .command import split_command
from .container_request import ContainerRequest, container_request
from .environment import check_environment, check_names
from .printable import check_printable
from .rules import is_positive
from .secret_references import check_file_names
from .sizes import check_labels, check_path, check_sizes
from .spec import JobSpec


class InvalidField(ValueError):
    """A field has a value that no job can have. ``field``: its name; the message says what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, str(self))


def command_and_request(spec: JobSpec) -> tuple[list[str], ContainerRequest]:
    """Check all but the sizes of command and environment; return the command's words, and what it asks of a container.

    Raises InvalidField for the first value that is wrong.
    """
    field, request = "command", _NO_REQUEST
    try:
        words = _words(spec.command, image=spec.image)
        # Most jobs have none of these.
        if (given := _checked_values(spec)) != _DEFAULTS:
            field = "container"
            request = container_request(spec.container)
            for (name, check), value, default in zip(FIELD_CHECKS, given, _DEFAULTS, strict=False):
                if value != default:
                    field = name
                    check(value)
    except ValueError as error:
        raise InvalidField(field, str(error)) from error
    return words, request


def check_job(spec: JobSpec) -> None:
    """Do all checks, as far as they need no values of secrets. Raises InvalidField for the first value that is wrong.

    With secrets' values as variables, a launch alone can tell whether a program can get all.
    """
    words, request = command_and_request(spec)
    argv = (*request.entrypoint_words, *words)
    # The command alone first: its words are counted from its own first one. Once the entrypoint has passed too, what is
    # too large is what they get.
    checked: tuple[tuple[str, Sequence[str], Mapping[str, str]], ...] = (
        ("command", words, {}),
        ("command", argv, {}),
        ("environment", argv, spec.environment),
    )
    for field, arguments, environment in checked:
        try:
            check_sizes(arguments, environment)
        except ValueError as error:
            raise InvalidField(field, str(error)) from error


def _words(command: str, *, image: str) -> list[str]:
    try:
        words = split_command(command)
    except ValueError as error:
        raise ValueError(_("The quoting is broken: %s. shlex.join() quotes a list of words.") % error) from error
    if not words and not image:
        raise ValueError(_("It is empty. Say what to run: a command, or an image that has one."))
    return words


def _check_texts(value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError(_("It must be a JSON object of strings, not %(type)s.") % {"type": type(value).__name__})
    for text in value.values():
        if not isinstance(text, str):
            raise ValueError(_("A JSON object of strings is needed."))


def _check_variables(environment: Mapping[str, str]) -> None:
    _check_texts(environment)
    check_environment(environment)


def _check_secrets(secrets: Mapping[str, str]) -> None:
    _check_texts(secrets)
    check_names(secrets)


def _check_secret_files(files: Mapping[str, str]) -> None:
    _check_texts(files)
    check_file_names(files)


def _check_labels(labels: Mapping[str, str]) -> None:
    _check_texts(labels)
    check_labels(labels)
    for text in (*labels, *labels.values()):
        check_printable(text)


def _check_cores(count: float) -> None:
    # The validators of the column give it a range, in which they take what is no number to be.
    if not is_positive(count):
        raise ValueError(_("A finite number above zero is needed."))


# Field → its check, which raises ValueError. A value that was left at its default is right.
FIELD_CHECKS: tuple[tuple[str, Callable[[Any], object]], ...] = (
    ("cpu_count", _check_cores),
    ("environment", _check_variables),
    ("secrets", _check_secrets),
    ("secret_files", _check_secret_files),
    ("labels", _check_labels),
    ("working_directory", check_path),
)
# The values of these fields, and what is requested of the container.
_checked_values = itemgetter(*(JobSpec._fields.index(field) for field in (*dict(FIELD_CHECKS), "container")))
_DEFAULTS = _checked_values(JobSpec())
_NO_REQUEST = container_request({})
