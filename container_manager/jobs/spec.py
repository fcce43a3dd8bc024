"""`JobSpec`: the one list of what describes a job.

From it derive the columns that a claim reads, what a retry repeats, what the command line, the admin, the API and
``@task`` offer, what they show to whom, and what a launch takes. A new field needs a line here, a model field of the
same name, and a migration.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from .option import Option


class FieldMark(Enum):
    """What is true of a field besides its type and its `Option`: the value says it."""

    PRIVATE = "texts by name: who may not see environments sees the names alone"
    OF_CODE = "which function of the project is run is for its code to say, not for a form or a request"
    OF_ENQUEUEING = "it is about enqueueing alone: workers do not read it"


class JobSpec(NamedTuple):
    """What a user asks to run. Names and defaults are those of the model's fields.

    A tuple, because one is made for every claimed job: a frozen dataclass takes several times as long.
    A field whose type is a Mapping is stored as JSON. The `Option` is how the command line offers it; ``command`` and
    ``container`` have arguments of their own there, and tasks are not submitted there.
    ``backoff_seconds``: how long its first retry waits, instead of ``RETRY["INITIAL_SECONDS"]``.
    ``unique_key``: of all jobs with this key at most one holds it, and as long as one does none is created with it
    (`container_manager.queue.enqueue` returns that one). ``unique_until``: a job holds its key until it has
    ``started``, or ``finished``, all retries included. ``unique_seconds``: or for so long after it was created, however
    it ends. A cancelled job holds none.
    ``task``: the dotted path of a function to run instead of a command; ``task_arguments``: its ``args`` and
    ``kwargs``.
    """

    name: Annotated[str, Option("--name", help="A name to find it by.")] = ""
    image: Annotated[str, Option("--image", help="The container image; local processes have none.")] = ""
    command: str = ""
    environment: Annotated[
        Mapping[str, str],
        Option("--env", "NAME=VALUE", kind="texts", help="Set a variable. Repeatable."),
        FieldMark.PRIVATE,
    ] = {}
    secrets: Annotated[
        Mapping[str, str],
        Option(
            "--secret",
            "NAME=REFERENCE",
            kind="texts",
            help="Set a variable from a secret: env:CM_SECRET_… or file:…. Repeatable.",
        ),
        FieldMark.PRIVATE,
    ] = {}
    secret_files: Annotated[
        Mapping[str, str],
        Option(
            "--secret-file",
            "NAME=REFERENCE",
            kind="texts",
            help="Set a file in $CONTAINER_MANAGER_SECRETS from a secret. Repeatable.",
        ),
        FieldMark.PRIVATE,
    ] = {}
    working_directory: Annotated[str, Option("--workdir", help="The working directory.")] = ""
    container: Mapping[str, Any] = {}
    memory_bytes: Annotated[
        int | None, Option("--memory", "BYTES", kind="size", help="Memory limit; k, m, g are understood.")
    ] = None
    cpu_count: Annotated[float | None, Option("--cpus", kind="number", help="CPU limit in cores.")] = None
    timeout_seconds: Annotated[
        int | None, Option("--timeout", "SECONDS", kind="integer", help="Stop it after this time.")
    ] = None
    grace_seconds: Annotated[int, Option("--grace", "SECONDS", kind="integer", help="Between TERM and KILL.")] = 10
    executor: Annotated[str, Option("--executor", help="The executor's alias.")] = "default"
    queue: Annotated[str, Option("--queue", help="The queue.")] = "default"
    priority: Annotated[int, Option("--priority", kind="integer", help="0 to 100, higher first.")] = 50
    max_retries: Annotated[int, Option("--retries", kind="integer", help="How often to try again.")] = 3
    backoff_seconds: Annotated[
        int | None,
        Option("--backoff", "SECONDS", kind="integer", help="Before its first retry; then longer each time."),
    ] = None
    labels: Annotated[
        Mapping[str, str], Option("--label", "NAME=VALUE", kind="texts", help="A label. Repeatable.")
    ] = {}
    task: Annotated[str, FieldMark.OF_CODE] = ""
    task_arguments: Annotated[Mapping[str, Any] | None, FieldMark.OF_CODE] = None
    unique_key: Annotated[
        str,
        Option("--unique-key", "KEY", help="Submit it only if no job holds this key; else name that job."),
        FieldMark.OF_ENQUEUEING,
    ] = ""
    unique_until: Annotated[
        str,
        Option("--unique-until", "started|finished", help="Until when it holds its key."),
        FieldMark.OF_ENQUEUEING,
    ] = "finished"
    unique_seconds: Annotated[
        int | None,
        Option("--unique-seconds", "SECONDS", kind="integer", help="How long it holds its key instead."),
        FieldMark.OF_ENQUEUEING,
    ] = None


_TYPES = get_type_hints(JobSpec)
_ANNOTATED = get_type_hints(JobSpec, include_extras=True)


def _marked(mark: FieldMark) -> tuple[str, ...]:
    return tuple(name for name in JobSpec._fields if mark in get_args(_ANNOTATED[name]))


PRIVATE_FIELDS = _marked(FieldMark.PRIVATE)
CODE_FIELDS = _marked(FieldMark.OF_CODE)
ENQUEUEING_FIELDS = _marked(FieldMark.OF_ENQUEUEING)
CLAIMED_FIELDS = tuple(name for name in JobSpec._fields if name not in ENQUEUEING_FIELDS)
JSON_FIELDS = tuple(
    name
    for name in JobSpec._fields
    if any(get_origin(kind) is Mapping for kind in (_TYPES[name], *get_args(_TYPES[name])))
)
TEXT_MAPPINGS = tuple(name for name in JobSpec._fields if _TYPES[name] == Mapping[str, str])
OPTIONS: Mapping[str, Option] = {
    name: option for name, hint in _ANNOTATED.items() for option in get_args(hint) if isinstance(option, Option)
}
