"""The worker's side of a task server: a warden that has imported the project first, and says when it has."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from django.conf import settings as django_settings

from ..process.warden_link import WardenLink

# With the path of the worker, whatever started that.
_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from container_manager.executors.python.task_server import main
main(channel=int(sys.argv[2]), news=int(sys.argv[3]), preload=json.loads(sys.argv[4]))
"""
# After a failed import the next one waits, since most often it would fail too.
_PAUSE_SECONDS = 30.0
SETTINGS_VARIABLE = "DJANGO_SETTINGS_MODULE"
SERVER_READY, SERVER_FAILED, HANGUP = "ready", "failed", "hangup"


def settings_module() -> str:
    """Return the module of the project's settings; "" if there is none. Settings that a test overrides name none."""
    return getattr(django_settings, "SETTINGS_MODULE", "") or os.environ.get(SETTINGS_VARIABLE, "")


class TaskServerLink(WardenLink):
    """A task server, started when it is first needed, and again when it is gone.

    ``note_ready`` is called once it has imported the project, with an error if it could not; ``note_hangup``, when it
    got SIGHUP; both by a thread of this link's. ``is_ready``: whether it can start tasks; ``settled`` is set once that
    is known.
    """

    def __init__(
        self,
        *,
        preload: Sequence[str],
        note_ready: Callable[[TaskServerLink, str], None],
        note_hangup: Callable[[], None],
    ) -> None:
        super().__init__()
        self._preload, self._note_ready, self._note_hangup = preload, note_ready, note_hangup
        self._failure, self._failed_at = "", 0.0
        self.is_ready = False
        self.settled = threading.Event()

    @property
    def recent_failure(self) -> str:
        """Why the import has failed a moment ago; "" if it has not."""
        return self._failure if time.monotonic() - self._failed_at < _PAUSE_SECONDS else ""

    def close(self) -> None:
        if self.process is not None and not self.settled.is_set():
            # It does not look at its channel while it imports, and has started nothing.
            self.process.kill()
        super().close()

    def _spawn(self, channel: int) -> subprocess.Popen[bytes]:
        self.is_ready, self.settled = False, threading.Event()
        reader, writer = os.pipe()
        arguments = [json.dumps(sys.path), str(channel), str(writer), json.dumps(self._preload)]
        try:
            process = subprocess.Popen(  # noqa: S603  # our own interpreter and program
                [sys.executable, "-c", _PROGRAM, *arguments],
                env={**os.environ, SETTINGS_VARIABLE: settings_module()},
                pass_fds=[channel, writer],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        threading.Thread(
            target=self._read_news, args=(reader, self.settled), name="container-manager-task-server", daemon=True
        ).start()
        return process

    def _read_news(self, reader: int, settled: threading.Event) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="backslashreplace") as news:
            for line in news:
                word, _, text = line.rstrip("\n").partition(" ")
                if word == SERVER_READY:
                    self.is_ready = True
                    settled.set()
                    self._note_ready(self, "")
                elif word == HANGUP:
                    self._note_hangup()
                elif word == SERVER_FAILED and not settled.is_set():
                    with contextlib.suppress(ValueError):
                        text = json.loads(text)
                    self._fail(settled, f"The task server could not import the project: {text}")
        if not settled.is_set():
            self._fail(settled, "The task server ended while it imported the project; the worker's log may say why.")

    def _fail(self, settled: threading.Event, text: str) -> None:
        self._failure, self._failed_at = text, time.monotonic()
        settled.set()
        self._note_ready(self, text)
