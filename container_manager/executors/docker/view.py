"""The containers of this installation: a list taken every few seconds is the truth, events make it quick."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...conf import AppSettings
from ...jobs.package_log import package_logger
from ..base import ExitStatus, Observation, Observations, Phase, Unavailable
from .configuration import INSTALL_LABEL, KEY_LABEL
from .daemon import RETRY_SECONDS, Daemon
from .daemon_answers import SILENCE_SECONDS, Answer, Gone
from .exits import INIT_FAILURES, PHASES, exit_status, may_be_out_of_memory
from .frames import FrameDecoder
from .result_archives import read_last_progress, read_result

# Listing 300 containers takes the daemon about 45 ms.
_LIST_SECONDS = 5.0
# A thread that waits for a hanging daemon ends by itself at that call's timeout.
_CLOSE_SECONDS = 0.5
# The longest word that a command may have, which an init process repeats, and what it says around it.
_INIT_WORDS_BYTES = (128 << 10) + 1024
# Docker's name of an end, and podman's: it sends `die` too, but filters by its own name (measured with 4.3).
_END_EVENTS = ("die", "died")
# The daemon's event that a container ran out of memory may come after the one of its end (2 in 100, by some ms,
# measured with 20.10), and by then has come if it ever does.
_OUT_OF_MEMORY_SECONDS = 1.0
logger = package_logger(__name__)


@dataclass(slots=True, kw_only=True)
class _Container:
    """What is known of one container. Times are this machine's monotonic seconds."""

    # None: it was removed, or only an event has named it.
    phase: Phase | None = None
    seen_at: float = 0.0
    # How it ended, once it was inspected after its end.
    exit: ExitStatus | None = None
    # Whether it has ended, or may have, and was not inspected since.
    is_end_unknown: bool = False
    # Whether an event has said so.
    out_of_memory: bool = False
    # When to stop waiting for such an event; None: there was no reason to wait.
    doubt_until: float | None = None
    # When we removed it. Older lists and late events must not bring it back.
    removed_at: float | None = None


class View:
    """Containers by their keys, kept up to date by two threads. ``changed`` is called when something may be new."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        install: str,
        most_result_bytes: int = AppSettings().result_limit_bytes,
        changed: Callable[[], None],
    ) -> None:
        self._most_result_bytes = most_result_bytes
        self._daemon, self._install, self._changed = daemon, install, changed
        # Guards all that follows; notified when there is something to ask the daemon.
        self._state = threading.Condition()
        self._containers: dict[str, _Container] = {}
        self._list_at = self._listed_at = 0.0
        # The identity of the daemon that made the last list, and the connection by which it told that: by the next one
        # another daemon may answer.
        self._engine, self._engine_of, self._connection = "", -1, 0
        self._error: Unavailable | None = None
        self._threads: list[threading.Thread] = []
        # The stream of events, and when it last brought anything.
        self._answer: Answer | None = None
        self._heard_at = 0.0
        self._closed = False

    def observe(self) -> Observations:
        """Return what is known; raise Unavailable where the daemon did not answer the last question."""
        self._start()
        with self._state:
            if self._error is not None:
                raise Unavailable(str(self._error)) from self._error
            attempts = [
                # An end is reported only with its exit status.
                Observation(key=key, handle=key, phase=found.phase, exit=found.exit)
                if found.phase is not Phase.EXITED or found.exit is not None
                else Observation(key=key, handle=key, phase=Phase.RUNNING)
                for key, found in self._containers.items()
                if found.phase is not None
            ]
            return Observations(attempts=attempts, as_of=self._listed_at, engine=self._engine)

    def phase(self, key: str) -> Phase | None:
        """Return the known phase of a container; None where no container is known."""
        self._start()
        with self._state:
            found = self._containers.get(key)
            return None if found is None else found.phase

    def note_started(self, key: str) -> None:
        """Take a container for running from now on, before a list or an event says so."""
        with self._state:
            found = self._containers.setdefault(key, _Container())
            if found.phase in (None, Phase.CREATED):
                found.phase, found.seen_at, found.removed_at = Phase.RUNNING, time.monotonic(), None

    def forget(self, key: str) -> None:
        """Drop a container that we have removed."""
        with self._state:
            self._containers[key] = _Container(removed_at=time.monotonic())

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
            if self._answer is not None:
                self._answer.interrupt()
        for thread in self._threads:
            thread.join(timeout=_CLOSE_SECONDS)

    def _start(self) -> None:
        with self._state:
            if not self._threads and not self._closed:
                for name, work in (("events", self._follow_events), ("view", self._update)):
                    thread = threading.Thread(target=work, name=f"container-manager-{name}", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _update(self) -> None:
        """List and inspect containers when that is due, until closed (a thread of its own)."""
        while True:
            with self._state:
                if not self._inspectable():
                    doubts = (found.doubt_until for found in self._containers.values() if found.is_end_unknown)
                    at = min([self._list_at, *(doubt for doubt in doubts if doubt is not None)])
                    self._state.wait(max(0.0, at - time.monotonic()))
                if self._closed:
                    return
                unknown, is_due = self._inspectable(), time.monotonic() >= self._list_at
                if self._answer is not None and time.monotonic() - self._heard_at > SILENCE_SECONDS:
                    self._answer.interrupt()
            try:
                if is_due:
                    self._list()
                for key in unknown:
                    self._inspect(key)
                with self._state:
                    self._error = None
            except Exception as error:
                # Whatever it is, this thread must go on: without it no end would ever be seen again.
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
        return [
            key
            for key, found in self._containers.items()
            if found.is_end_unknown and (found.doubt_until is None or found.doubt_until <= now)
        ]

    def _list(self) -> None:
        with self._state:
            asked = time.monotonic()
            # A list that is asked for while this one is being made must be made after it.
            self._list_at = asked + _LIST_SECONDS
            connection, engine = self._connection, self._engine
            is_known = self._engine_of == connection
        if not is_known:
            engine = self._daemon.identity()
        rows = self._daemon.containers(f"{INSTALL_LABEL}={self._install}")
        with self._state:
            self._take_list(rows, asked)
            self._listed_at, self._engine, self._engine_of = asked, engine, connection

    def _take_list(self, rows: Iterable[Mapping[str, Any]], asked: float) -> None:
        """Replace what was known before the daemon was asked for this list. The caller holds the lock."""
        listed = {row["Labels"].get(KEY_LABEL): PHASES.get(row["State"]) for row in rows}
        for key, known in [*self._containers.items()]:
            if max(known.seen_at, known.removed_at or 0.0) >= asked:
                # What happened while the daemon made its list is not in it.
                listed.pop(key, None)
            elif known.removed_at is not None or not (listed.get(key) or known.is_end_unknown):
                del self._containers[key]
            elif listed.get(key) is None:
                known.phase = None
        for key, phase in listed.items():
            if key is None or phase is None:
                continue
            found = self._containers.setdefault(key, _Container())
            if found.exit is None:
                found.phase, found.seen_at = phase, asked
                found.is_end_unknown = found.is_end_unknown or phase is Phase.EXITED

    def _inspect(self, key: str) -> None:
        status, is_gone = None, False
        try:
            found = self._daemon.inspect(key)
            if PHASES.get(found["State"]["Status"]) is Phase.EXITED:
                if may_be_out_of_memory(found) and self._postpone(key):
                    return
                result, refused = read_result(self._daemon, found, most_bytes=self._most_result_bytes)
                progress = read_last_progress(self._daemon, found)
                status = self._exit_status(key, found)._replace(
                    result=result, result_refused=refused, progress=progress
                )
        except Gone:
            is_gone = True
        with self._state:
            known = self._containers.get(key)
            if known is None or not known.is_end_unknown:
                # It was removed meanwhile.
                return
            known.is_end_unknown = False
            if is_gone:
                del self._containers[key]
            elif status is not None:
                known.phase, known.seen_at, known.exit = Phase.EXITED, time.monotonic(), status

    def _exit_status(self, key: str, found: Mapping[str, Any]) -> ExitStatus:
        with self._state:
            known = self._containers.get(key)
            out_of_memory = known is not None and known.out_of_memory
        state = found["State"]
        return exit_status(
            state,
            memory_bytes=found["HostConfig"]["Memory"],
            program=next(iter([*(found["Config"]["Entrypoint"] or ()), *(found["Config"]["Cmd"] or ())]), ""),
            is_known=self._daemon.knows_end(found),
            out_of_memory=out_of_memory,
            complaint=self._complaint(found["Id"]) if state["ExitCode"] in INIT_FAILURES else "",
        )

    def _complaint(self, container: str) -> str:
        """Return all that a container wrote to stderr; what is longer than an init process's words is cut.

        From the start: podman's log keeps a line in the pieces in which it was written, and loses some of them where
        it is asked for the last lines (measured with 4.3: in 1 of 5 containers).
        """
        said = b""
        decoder = FrameDecoder(drops_newlines=self._daemon.flavour().drops_newlines)
        parameters: dict[str, str | int] = {"stdout": 0, "stderr": 1, "timestamps": 1}
        silence = self._daemon.answer_seconds
        with self._daemon.stream(f"/containers/{container}/logs", parameters, silence_seconds=silence) as answer:
            for piece in answer.pieces():
                said += b"".join(chunk.data for chunk in decoder.feed(piece))
                if len(said) > _INIT_WORDS_BYTES:
                    break
        return said.decode(errors="replace")

    def _postpone(self, key: str) -> bool:
        """Wait for an event that says a container ran out of memory; return False where it came, or we have waited."""
        with self._state:
            known = self._containers.get(key)
            if known is None or known.out_of_memory or known.doubt_until is not None:
                return False
            known.doubt_until = time.monotonic() + _OUT_OF_MEMORY_SECONDS
            return True

    def _follow_events(self) -> None:
        """Follow the daemon's events, until closed (a thread of its own)."""
        filters = json.dumps(
            {"type": ["container"], "event": [*_END_EVENTS, "oom"], "label": [f"{INSTALL_LABEL}={self._install}"]}
        )
        while not self._closed:
            try:
                with self._daemon.stream("/events", {"filters": filters}) as answer:
                    with self._state:
                        if self._closed:
                            return
                        self._answer, self._heard_at = answer, time.monotonic()
                    self._list_soon()
                    for event in answer.lines():
                        self._heard_at = time.monotonic()
                        self._take_event(event)
            except (Gone, Unavailable):
                pass
            self._daemon.renegotiate()
            # Whatever happened while no events came is in the list.
            with self._state:
                self._answer = None
                self._connection += 1
            self._list_soon()
            with self._state:
                self._state.wait_for(lambda: self._closed, timeout=RETRY_SECONDS)

    def _take_event(self, event: Mapping[str, Any]) -> None:
        key = event.get("Actor", {}).get("Attributes", {}).get(KEY_LABEL)
        if key is None:
            return
        with self._state:
            found = self._containers.setdefault(key, _Container())
            if event.get("Action") == "oom":
                found.out_of_memory = True
                if found.doubt_until is not None:
                    found.doubt_until = 0.0
            elif found.removed_at is None:
                found.is_end_unknown = True
                if found.phase is None:
                    found.phase, found.seen_at = Phase.RUNNING, time.monotonic()
            self._state.notify_all()

    def _list_soon(self) -> None:
        with self._state:
            self._list_at = 0.0
            self._state.notify_all()
