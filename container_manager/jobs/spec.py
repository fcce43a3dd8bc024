"""`JobSpec`: the one list of what describes a job.

From it derive the columns that a claim reads, what a retry repeats, what the command line and the admin offer, and what
a launch takes. A new field needs a line here, a model field of the same name, and a migration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from .option import Option


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
        Mapping[str, str], Option("--env", "NAME=VALUE", kind="texts", help="Set a variable. Repeatable.")
    ] = {}
    secrets: Annotated[
        Mapping[str, str],
        Option(
            "--secret",
            "NAME=REFERENCE",
            kind="texts",
            help="Set a variable from a secret: env:CM_SECRET_… or file:…. Repeatable.",
        ),
    ] = {}
    secret_files: Annotated[
        Mapping[str, str],
        Option(
            "--secret-file",
            "NAME=REFERENCE",
            kind="texts",
            help="Set a file in $CONTAINER_MANAGER_SECRETS from a secret. Repeatable.",
        ),
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
    task: str = ""
    task_arguments: Mapping[str, Any] | None = None
    # From here on it is about enqueueing alone: workers do not read these.
    unique_key: Annotated[
        str, Option("--unique-key", "KEY", help="Submit it only if no job holds this key; else name that job.")
    ] = ""
    unique_until: Annotated[
        str,
        Option("--unique-until", "started|finished", help="Until when it holds its key."),
    ] = "finished"
    unique_seconds: Annotated[
        int | None,
        Option("--unique-seconds", "SECONDS", kind="integer", help="How long it holds its key instead."),
    ] = None


CLAIMED_FIELDS = JobSpec._fields[: JobSpec._fields.index("unique_key")]
_TYPES = get_type_hints(JobSpec)
JSON_FIELDS = tuple(
    name
    for name in JobSpec._fields
    if any(get_origin(kind) is Mapping for kind in (_TYPES[name], *get_args(_TYPES[name])))
)
OPTIONS: Mapping[str, Option] = {
    name: option
    for name, hint in get_type_hints(JobSpec, include_extras=True).items()
    for option in get_args(hint)
    if isinstance(option, Option)
}
