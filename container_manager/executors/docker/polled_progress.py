"""How far containers have come: one thread asks the daemon for their progress files, one after another."""

from __future__ import annotations

import threading

from ...jobs.package_log import package_logger
from ..base import Unavailable
from .daemon import Daemon
from .result_archives import read_progress

# From the end of one round to the beginning of the next: each container costs the daemon a request, and never are there
# two at a time.
_ROUND_SECONDS = 5.0
_CLOSE_SECONDS = 0.5
logger = package_logger(__name__)


class PolledProgress:
    """What the progress files of running containers have, as it was read last. Any thread may call it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._lock = threading.Lock()
        # By key; None: nothing was read yet.
        self._found: dict[str, bytes | None] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def latest(self, key: str) -> bytes | None:
        """Return what was read last, and have it read from now on until it is forgotten."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._poll, name="container-manager-progress", daemon=True)
                self._thread.start()
            return self._found.setdefault(key, None)

    def forget(self, key: str) -> None:
        """Read the file of a container no more."""
        with self._lock:
            self._found.pop(key, None)

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSE_SECONDS)

    def _poll(self) -> None:
        while not self._closed.wait(_ROUND_SECONDS):
            with self._lock:
                keys = list(self._found)
            for key in keys:
                if self._closed.is_set():
                    return
                self._read(key)

    def _read(self, key: str) -> None:
        try:
            data = read_progress(self._daemon, key)
        except Unavailable:
            # Others find out whether the daemon is away.
            return
        except Exception:
            # Of this container alone: it would end one worker after another.
            logger.exception("The progress of %s was not understood", key)
            return
        with self._lock:
            if data is not None and key in self._found:
                self._found[key] = data
