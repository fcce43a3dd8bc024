"""What a keeper forks for a job: it becomes the job's command."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from .processes import MEANT_FOR_THE_WORKER, die_with_parent

_EXEC_FAILED = 127
# Said in place of an errno, and no number.
MALFORMED = b"malformed"
# What Python ignores, what a shell ignores for what it starts in the background, and what warden and keepers ignore:
# exec would pass it on. All else is reset by exec.
_IGNORED = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
_RESET = (*_IGNORED, *MEANT_FOR_THE_WORKER)


def fork_command(launch: Any, streams: Sequence[int], failure: int) -> int:
    """Fork what becomes the command; return its pid. Raises OSError where there is no room for a process.

    What cannot become the command writes the errno, or `MALFORMED`, to ``failure``.
    """
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            die_with_parent(signal.SIGKILL, parent=keeper)
            os.write(failure, _become_command(launch, streams))
        finally:
            os._exit(_EXEC_FAILED)
    return pid


def _become_command(launch: Any, streams: Sequence[int]) -> bytes:
    """Execute the command; return why that failed."""
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, stream in enumerate(streams, start=1):
            os.dup2(stream, target)
        _set_limits(launch["limits"])
        if launch["working_directory"]:
            os.chdir(launch["working_directory"])
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(launch["argv"][0], launch["argv"], launch["environment"])  # noqa: S606  # argv, never a shell
    except OSError as error:
        return str(error.errno or 0).encode()
    except (LookupError, TypeError, AttributeError):
        return MALFORMED
    except ValueError:
        # Of exec: a NUL byte, say.
        return str(errno.EINVAL).encode()


def _set_limits(limits: Mapping[str, Any]) -> None:
    for name, limit in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(number, (value, value))
