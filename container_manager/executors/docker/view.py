"""What the daemon has of this installation: a list that is the truth, and events that make it quick."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base import ExitStatus, Observation, Phase, Unavailable
from .configuration import INSTALL_LABEL, KEY_LABEL
from .daemon import Daemon, Gone
from .daemon import Stream as Answer

# A list of 300 containers takes the daemon about 45 ms.
_LIST_SECONDS = 5.0
_RECONNECT_SECONDS = 0.5
_PHASES = {
    "created": Phase.CREATED,
    "running": Phase.RUNNING,
    "paused": Phase.RUNNING,
    "restarting": Phase.RUNNING,
    "exited": Phase.EXITED,
    "dead": Phase.EXITED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container as it was seen, ``at`` this machine's monotonic time. ``exit`` is unknown until it was looked at."""

    phase: Phase
    at: float
    exit: ExitStatus | None = None


class View:
    """Containers by their keys; ``changed`` is called when there may be something new."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        install: str,
        exit_status: Callable[[Mapping[str, Any], bool], ExitStatus],
        changed: Callable[[], None],
    ) -> None:
        self._daemon, self._install, self._changed = daemon, install, changed
        self._exit_status = exit_status
        self._lock = threading.Lock()
        self._seen: dict[str, Seen] = {}
        self._removed: dict[str, float] = {}
        self._unknown_ends: set[str] = set()
        self._out_of_memory: set[str] = set()
        self._list_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._answer: Answer | None = None

    def look(self) -> Sequence[Observation]:
        """Return what there is; ask the daemon for what is not known. Raises Unavailable."""
        self._listen()
        if time.monotonic() >= self._list_at:
            self._list()
        for key in list(self._unknown_ends):
            self._inspect(key)
        with self._lock:
            return [
                # An end is told with all that is known of it.
                Observation(key=key, handle=key, phase=seen.phase, exit=seen.exit)
                if seen.phase is not Phase.EXITED or seen.exit is not None
                else Observation(key=key, handle=key, phase=Phase.RUNNING)
                for key, seen in self._seen.items()
            ]

    def find(self, key: str) -> Seen | None:
        with self._lock:
            return self._seen.get(key)

    def note_started(self, key: str) -> None:
        with self._lock:
            if key not in self._seen or self._seen[key].phase is Phase.CREATED:
                self._seen[key] = Seen(phase=Phase.RUNNING, at=time.monotonic())

    def forget(self, key: str) -> None:
        with self._lock:
            self._seen.pop(key, None)
            self._unknown_ends.discard(key)
            self._out_of_memory.discard(key)
            self._removed[key] = time.monotonic()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            if self._answer is not None:
                self._answer.break_off()

    def _list(self) -> None:
        asked = time.monotonic()
        with self._daemon.asked() as api:
            rows = api.containers(all=True, filters={"label": f"{INSTALL_LABEL}={self._install}"})
        with self._lock:
            # What has happened while the daemon made its list is not in it.
            seen = {key: found for key, found in self._seen.items() if found.at >= asked}
            for row in rows:
                key, phase = row["Labels"].get(KEY_LABEL), _PHASES.get(row["State"])
                if key is None or phase is None or key in seen or self._removed.get(key, 0.0) >= asked:
                    continue
                known = self._seen.get(key)
                seen[key] = known if known is not None and known.exit else Seen(phase=phase, at=asked)
            self._seen = seen
            self._removed = {key: at for key, at in self._removed.items() if at >= asked}
            self._unknown_ends |= {k for k, found in seen.items() if found.phase is Phase.EXITED and not found.exit}
            self._list_at = asked + _LIST_SECONDS

    def _inspect(self, key: str) -> None:
        status = None
        try:
            with self._daemon.asked() as api:
                found = api.inspect_container(key)
            if _PHASES.get(found["State"]["Status"]) is Phase.EXITED:
                status = self._exit_status(found, key in self._out_of_memory)
        except Gone:
            with self._lock:
                self._seen.pop(key, None)
        with self._lock:
            if status is not None and key in self._unknown_ends:
                self._seen[key] = Seen(phase=Phase.EXITED, at=time.monotonic(), exit=status)
            self._unknown_ends.discard(key)

    def _listen(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._hear, name="container-manager-events", daemon=True)
                self._thread.start()

    def _hear(self) -> None:
        filters = json.dumps(
            {"type": ["container"], "event": ["die", "oom"], "label": [f"{INSTALL_LABEL}={self._install}"]}
        )
        while not self._closed.is_set():
            try:
                with self._daemon.stream("/events", {"filters": filters}) as answer:
                    with self._lock:
                        if self._closed.is_set():
                            return
                        self._answer = answer
                    self._hurry()
                    for event in answer.lines():
                        self._take(event)
            except (Gone, Unavailable):
                pass
            # Whatever happened while nobody listened is in the list.
            self._hurry()
            self._closed.wait(_RECONNECT_SECONDS)

    def _take(self, event: Mapping[str, Any]) -> None:
        key = event.get("Actor", {}).get("Attributes", {}).get(KEY_LABEL)
        if key is None:
            return
        with self._lock:
            if event.get("Action") == "oom":
                self._out_of_memory.add(key)
                return
            if key not in self._removed:
                self._seen.setdefault(key, Seen(phase=Phase.RUNNING, at=time.monotonic()))
                self._unknown_ends.add(key)
        self._changed()

    def _hurry(self) -> None:
        self._list_at = 0.0
        self._changed()
