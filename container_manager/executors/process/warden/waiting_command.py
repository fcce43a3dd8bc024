"""A process that is forked ahead, and becomes a job's command once it is told which."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Mapping
from typing import Any

from .messages import receive, send
from .processes import die_with_parent

_EXEC_FAILED = 127
# Said in place of an errno, and no number.
_MALFORMED = b"malformed"
# What Python ignores, and what a shell ignores for what it starts in the background. All else is reset by exec.
_IGNORED = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]


class WaitingCommand:
    """Fork the process. ``inherited``: the keeper's socket, which it closes; ``handled``: signals it takes as usual."""

    def __init__(self, inherited: socket.socket, *, handled: tuple[int, ...]) -> None:
        self._channel, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                inherited.close()
                self._channel.close()
                _become_command(theirs, handled)
            finally:
                os._exit(_EXEC_FAILED)
        theirs.close()

    def start(self, message: bytes, out: int, err: int) -> int | None:
        """Have it execute the command of a launch; return the errno of a failed exec, None where it runs.

        Raises OSError where the process was killed while it waited, and ValueError for a malformed launch.
        """
        with self._channel:
            send(self._channel, message, (out, err))
            # A successful exec closes the other end.
            report = self._channel.recv(16)
        return int(report) if report else None


def _become_command(channel: socket.socket, handled: tuple[int, ...]) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (*_IGNORED, *handled):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    message, descriptors = receive(channel)
    if message is None:
        return
    try:
        spec = json.loads(message)
        out, err = descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        _set_limits(spec["limits"])
        if spec["working_directory"]:
            os.chdir(spec["working_directory"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])  # noqa: S606  # argv, never a shell
    except OSError as error:
        channel.sendall(str(error.errno or 0).encode())
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError, RecursionError):
        channel.sendall(_MALFORMED)
    except ValueError:
        # Of exec: a NUL byte, say.
        channel.sendall(str(errno.EINVAL).encode())


def _set_limits(limits: Mapping[str, Any]) -> None:
    for name, limit in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(number, (value, value))
