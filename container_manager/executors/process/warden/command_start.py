"""Start a job's command."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence


def start_command(message: bytes, streams: Sequence[int]) -> int:
    """Start the command of a launch in a session of its own; return its pid.

    Raises OSError where it cannot be executed, and ValueError for a malformed launch.
    """
    try:
        launch = json.loads(message)
        limits = list(_limits(launch["limits"]))
        argv, environment, directory = (launch[name] for name in ("argv", "environment", "working_directory"))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("The launch is malformed.") from error
    try:
        process = subprocess.Popen(  # noqa: S603  # argv, never a shell
            argv,
            env=environment,
            cwd=directory or None,
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            start_new_session=True,
            # Only where it is needed: without it Popen need not copy this process, and starts twice as fast.
            preexec_fn=(lambda: _set(limits)) if limits else None,  # noqa: PLW1509  # a keeper has one thread
        )
    except (subprocess.SubprocessError, ValueError) as error:
        # Of a limit, or of a word with a NUL byte.
        raise OSError(errno.EINVAL, str(error)) from error
    except (TypeError, AttributeError) as error:
        raise ValueError("The launch is malformed.") from error
    # The keeper waits for all its children alike.
    process.returncode = 0
    return process.pid


def _limits(asked: Mapping[str, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    for name, limit in asked.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        yield number, (value, value)


def _set(limits: Iterable[tuple[int, tuple[int, int]]]) -> None:
    for number, values in limits:
        resource.setrlimit(number, values)
