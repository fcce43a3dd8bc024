"""The worker's side of its warden: the process, the channel to it, and heartbeats."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from ..base import Unavailable
from .warden.messages import send
from .warden.processes import MEANT_FOR_THE_WORKER, blocked

# Its folder is last on the path, so that none of ours hides a module of the standard library.
_PROGRAM = """\
import socket, sys
sys.path.append(sys.argv[1])
from warden.dispatch import main
main(socket.socket(fileno=int(sys.argv[2])))
"""


def unavailable(error: OSError) -> Unavailable:
    """Return what a launch raises that could not be sent."""
    if error.errno == errno.ETOOMANYREFS:
        # The limit counts the descriptors in flight of all this user's processes; nothing was sent.
        return no_room(error)
    return Unavailable(f"What starts local processes is gone: {error}.")


def no_room(error: OSError) -> Unavailable:
    """Return what a launch raises for which this process, or its user, has too many files open."""
    return Unavailable(
        f"There is no room for another job: {error}. Raise the worker's limit of open files, or give it fewer slots."
    )


class WardenLink:
    """A warden, started when it is first needed, and again when it is gone. Not thread-safe."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self._alive_until: float | None = None

    def start(self) -> bool:
        """Make sure that a warden runs; return whether it was started just now. Raises Unavailable if none can be."""
        if self.channel is not None and self.process is not None and self.process.poll() is None:
            return False
        ours, theirs = socket.socketpair()
        try:
            # Until it ignores them.
            with blocked(MEANT_FOR_THE_WORKER):
                self.process = self._spawn(theirs.fileno())
        except OSError as error:
            ours.close()
            raise Unavailable(f"The warden process could not be started: {error}.") from error
        finally:
            theirs.close()
        if self.channel is not None:
            self.channel.close()
        self.channel = ours
        # One that is started between two heartbeats must know by when to expect the next.
        self._pass_heartbeat()
        return True

    def new_keeper(self) -> socket.socket:
        """Have a keeper forked; return its control socket. Raises Unavailable where there is no room for that."""
        if self.channel is None:
            raise Unavailable("The warden process is gone.")
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise no_room(error) from error
        with theirs:
            try:
                send(self.channel, b"{}", [theirs.fileno()])
            except OSError as error:
                ours.close()
                if error.errno != errno.ETOOMANYREFS:
                    self.channel.close()
                    self.channel = None
                raise unavailable(error) from error
        return ours

    def heartbeat(self, seconds: float) -> None:
        """Tell the warden that the worker lives, and by when it will say so again."""
        self._alive_until = time.monotonic() + seconds
        self._pass_heartbeat()

    def close(self) -> None:
        """End the warden, and all jobs with it."""
        if self.channel is not None:
            self.channel.close()
        if self.process is not None:
            self.process.wait()

    def _spawn(self, channel: int) -> subprocess.Popen[bytes]:
        """Start the process at the other end of the channel. Raises OSError."""
        return subprocess.Popen(  # noqa: S603  # our own interpreter and program
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parent), str(channel)],
            pass_fds=[channel],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _pass_heartbeat(self) -> None:
        if self.channel is not None and self._alive_until is not None:
            with contextlib.suppress(OSError):
                send(self.channel, json.dumps({"heartbeat": self._alive_until - time.monotonic()}).encode())
