"""How a keeper starts a job, and the way to do so for a command."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence


class JobStart:
    """How keepers start jobs. Each keeper has its own copy, which none of its jobs may change.

    ``private``: the keeper's own descriptors, which a job may not have.
    """

    def prepare(self, private: Sequence[int]) -> None:
        """Do what the next start takes time for and needs no launch for. The keeper has no job meanwhile."""

    def start(self, message: bytes, streams: Sequence[int], private: Sequence[int]) -> int:
        """Start the job of a launch in a session of its own, with its output going to two streams; return its pid.

        Raises OSError where it cannot be started, and ValueError for a malformed launch.
        """
        raise NotImplementedError


class CommandStart(JobStart):
    """Starts commands. What a start takes time for is another program, which the launch names."""

    def start(self, message: bytes, streams: Sequence[int], private: Sequence[int]) -> int:
        return _start_command(message, streams)


def _start_command(message: bytes, streams: Sequence[int]) -> int:
    try:
        launch = json.loads(message)
        limits = list(resolved_limits(launch["limits"]))
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
            preexec_fn=(lambda: set_limits(limits)) if limits else None,  # noqa: PLW1509  # a keeper has one thread
        )
    except (subprocess.SubprocessError, ValueError) as error:
        # Of a limit, or of a word with a NUL byte.
        raise OSError(errno.EINVAL, str(error)) from error
    except (TypeError, AttributeError) as error:
        raise ValueError("The launch is malformed.") from error
    # The keeper waits for all its children alike.
    process.returncode = 0
    return process.pid


def resolved_limits(asked: Mapping[str, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Return limits by the kernel's numbers, none above what this process has."""
    for name, limit in asked.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        yield number, (value, value)


def set_limits(limits: Iterable[tuple[int, tuple[int, int]]]) -> None:
    """Limit this process, and what it starts."""
    for number, values in limits:
        resource.setrlimit(number, values)
