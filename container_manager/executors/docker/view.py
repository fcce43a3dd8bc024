"""What the daemon has of this installation: a list that is the truth, and events that make it quick."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..base import ExitStatus, Observation, Observations, Phase, Unavailable
from .configuration import INSTALL_LABEL, KEY_LABEL
from .daemon import RETRY_SECONDS, Answer, Daemon, Gone
from .exits import INIT_FAILURES, PHASES, exit_status, may_be_out_of_memory

# A list of 300 containers takes the daemon about 45 ms.
_LIST_SECONDS = 5.0
# A thread that waits for a daemon that hangs ends by itself, some time.
_CLOSE_SECONDS = 0.5
_LAST_WORDS_BYTES = 4096
# By then the daemon has said of what the kernel killed that it was out of memory, if it ever does (2 in 100 come after
# the end, some ms, measured with 20.10).
_OUT_OF_MEMORY_SECONDS = 1.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container as it was seen, ``at`` this machine's monotonic time. ``exit`` is unknown until it was looked at."""

    phase: Phase
    at: float
    exit: ExitStatus | None = None


class View:
    """Containers by their keys, kept up to date by two threads; ``changed`` is called when something may be new."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        install: str,
        changed: Callable[[], None],
    ) -> None:
        self._daemon, self._install, self._changed = daemon, install, changed
        # Guards all that follows; notified when there is something to ask the daemon.
        self._state = threading.Condition()
        self._seen: dict[str, Seen] = {}
        self._removed: dict[str, float] = {}
        self._unknown_ends: set[str] = set()
        self._out_of_memory: set[str] = set()
        # Those that may have been, by when the daemon will have said so.
        self._doubts: dict[str, float] = {}
        self._list_at = self._listed_at = 0.0
        self._error: Unavailable | None = None
        self._threads: list[threading.Thread] = []
        self._answer: Answer | None = None
        self._closed = False

    def look(self) -> Observations:
        """Return what is known; raise Unavailable where the daemon did not answer when it was asked last."""
        self._start()
        with self._state:
            if self._error is not None:
                raise Unavailable(str(self._error)) from self._error
            attempts = [
                # An end is told with all that is known of it.
                Observation(key=key, handle=key, phase=seen.phase, exit=seen.exit)
                if seen.phase is not Phase.EXITED or seen.exit is not None
                else Observation(key=key, handle=key, phase=Phase.RUNNING)
                for key, seen in self._seen.items()
            ]
            return Observations(attempts=attempts, as_of=self._listed_at)

    def find(self, key: str) -> Seen | None:
        self._start()
        with self._state:
            return self._seen.get(key)

    def note_started(self, key: str) -> None:
        with self._state:
            if key not in self._seen or self._seen[key].phase is Phase.CREATED:
                self._seen[key] = Seen(phase=Phase.RUNNING, at=time.monotonic())

    def forget(self, key: str) -> None:
        with self._state:
            self._seen.pop(key, None)
            self._unknown_ends.discard(key)
            self._out_of_memory.discard(key)
            self._doubts.pop(key, None)
            self._removed[key] = time.monotonic()

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
            if self._answer is not None:
                self._answer.break_off()
        for thread in self._threads:
            thread.join(timeout=_CLOSE_SECONDS)

    def _start(self) -> None:
        with self._state:
            if not self._threads and not self._closed:
                for name, work in (("events", self._hear), ("view", self._keep_up)):
                    thread = threading.Thread(target=work, name=f"container-manager-{name}", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _keep_up(self) -> None:
        """Ask the daemon for what is not known, until closed (a thread of its own)."""
        while True:
            with self._state:
                if not self._inspectable():
                    at = min([self._list_at, *(self._doubts[key] for key in self._unknown_ends)])
                    self._state.wait(max(0.0, at - time.monotonic()))
                if self._closed:
                    return
                unknown, is_due = self._inspectable(), time.monotonic() >= self._list_at
            try:
                if is_due:
                    self._list()
                for key in unknown:
                    self._inspect(key)
                with self._state:
                    self._error = None
            except Exception as error:
                # Whatever it is, without this thread no end would ever be seen again.
                if not isinstance(error, Unavailable):
                    logger.exception("The Docker daemon's answer was not understood")
                with self._state:
                    self._error = Unavailable(str(error))
                    self._list_at = 0.0
                    if not self._closed:
                        self._state.wait(RETRY_SECONDS)
            self._changed()

    def _inspectable(self) -> list[str]:
        now = time.monotonic()
        return [key for key in self._unknown_ends if self._doubts.get(key, 0.0) <= now]

    def _list(self) -> None:
        with self._state:
            asked = time.monotonic()
            # Whoever wants another list while this one is made has it.
            self._list_at = asked + _LIST_SECONDS
        with self._daemon.asked() as api:
            rows = api.containers(all=True, filters={"label": f"{INSTALL_LABEL}={self._install}"})
        with self._state:
            # What has happened while the daemon made its list is not in it.
            seen = {key: found for key, found in self._seen.items() if found.at >= asked}
            for row in rows:
                key, phase = row["Labels"].get(KEY_LABEL), PHASES.get(row["State"])
                if key is None or phase is None or key in seen or self._removed.get(key, 0.0) >= asked:
                    continue
                known = self._seen.get(key)
                seen[key] = known if known is not None and known.exit else Seen(phase=phase, at=asked)
            self._seen = seen
            self._out_of_memory &= set(seen)
            self._doubts = {key: at for key, at in self._doubts.items() if key in seen}
            self._removed = {key: at for key, at in self._removed.items() if at >= asked}
            self._unknown_ends |= {k for k, found in seen.items() if found.phase is Phase.EXITED and not found.exit}
            self._listed_at = asked

    def _inspect(self, key: str) -> None:
        status = None
        try:
            found = self._daemon.inspect(key)
            if PHASES.get(found["State"]["Status"]) is Phase.EXITED:
                if self._doubt(key, found):
                    return
                status = self._exit_status(found, out_of_memory=key in self._out_of_memory)
        except Gone:
            with self._state:
                self._seen.pop(key, None)
        with self._state:
            if status is not None and key in self._unknown_ends:
                self._seen[key] = Seen(phase=Phase.EXITED, at=time.monotonic(), exit=status)
            self._unknown_ends.discard(key)

    def _exit_status(self, found: Mapping[str, Any], *, out_of_memory: bool) -> ExitStatus:
        state, words = found["State"], ""
        if state["ExitCode"] in INIT_FAILURES:
            with self._daemon.asked() as api:
                words = api.logs(found["Id"], stdout=False, stderr=True, tail=1).decode(errors="replace")
        return exit_status(
            state,
            memory_bytes=found["HostConfig"]["Memory"],
            out_of_memory=out_of_memory,
            last_words=words[-_LAST_WORDS_BYTES:],
        )

    def _doubt(self, key: str, found: Mapping[str, Any]) -> bool:
        """Tell whether to wait for the daemon's word that a container was out of memory."""
        if not may_be_out_of_memory(found):
            return False
        with self._state:
            if key in self._out_of_memory or key in self._doubts:
                return False
            self._doubts[key] = time.monotonic() + _OUT_OF_MEMORY_SECONDS
            return True

    def _hear(self) -> None:
        """Hear the daemon's events, until closed (a thread of its own)."""
        filters = json.dumps(
            {"type": ["container"], "event": ["die", "oom"], "label": [f"{INSTALL_LABEL}={self._install}"]}
        )
        while not self._closed:
            try:
                with self._daemon.stream("/events", {"filters": filters}) as answer:
                    with self._state:
                        if self._closed:
                            return
                        self._answer = answer
                    self._list_soon()
                    for event in answer.lines():
                        self._take(event)
            except (Gone, Unavailable):
                pass
            # Whatever happened while nobody listened is in the list.
            self._list_soon()
            with self._state:
                self._state.wait_for(lambda: self._closed, timeout=RETRY_SECONDS)

    def _take(self, event: Mapping[str, Any]) -> None:
        key = event.get("Actor", {}).get("Attributes", {}).get(KEY_LABEL)
        if key is None:
            return
        with self._state:
            if event.get("Action") == "oom":
                self._out_of_memory.add(key)
                if key in self._doubts:
                    self._doubts[key] = 0.0
                    self._state.notify_all()
                return
            if key not in self._removed:
                self._seen.setdefault(key, Seen(phase=Phase.RUNNING, at=time.monotonic()))
                self._unknown_ends.add(key)
                self._state.notify_all()

    def _list_soon(self) -> None:
        with self._state:
            self._list_at = 0.0
            self._state.notify_all()
