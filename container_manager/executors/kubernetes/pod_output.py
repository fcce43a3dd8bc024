"""The output of pods: a bounded number of threads follow their logs, and take turns where there are more pods."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ...jobs.package_log import package_logger
from ...jobs.printable import escaped
from ..base import LogChunk, LogPage, Unavailable
from ..output_buffer import OutputBuffer
from .cluster_answers import Absent, ApiRefusal, ApiStream, Outdated
from .cluster_api import ClusterApi
from .labels import CONTAINER
from .stamped_log import LogPosition, StampedLog

# Followed at the same time, each by a thread and a connection.
_MOST_STREAMS = 32
# How long a log is followed at least before another one's turn.
_TURN_SECONDS = 2.0
# The pauses before a log is opened again: after its stream has ended by itself, and after errors that repeat.
_AGAIN_SECONDS, _LONGEST_AGAIN_SECONDS = 0.3, 10.0
# A log that has brought nothing for so long is opened again: a proxy may have dropped the connection.
_SILENCE_SECONDS = 300.0
# A log that is still followed so long after its container's end is read without that.
_END_SILENCE_SECONDS = 1.0
_IDLE_SECONDS, _MOST_IDLE = 10.0, 2
# An adopted attempt's kept output that begins so long after its program may lack what came before.
_LATE_SECONDS = 5.0
# A log that cannot be read once its attempt has ended, and whose node may be gone, is tried for so long.
_LOST_NODE_SECONDS = 10.0
_ROTATED = "The node has rotated its log away just before the program ended: the end of the output may be missing here."
_GONE = "The pod was deleted before all of its output was read: what is missing here is lost."
_MISSING = "The kubelet has rotated its log away before it was read: what came in {:.3f} s is missing here."
_DOUBTFUL = (
    "The output was read late, and its lines have a pause of {:.3f} s: what came then, if anything, may have been "
    "rotated away by the kubelet."
)
_LATE = "The output that the kubelet kept begins {:.0f} s after the program: what came before, if anything, is lost."
logger = package_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class PodOutput:
    """What is known of the output of one attempt. Guarded by the condition of `PodOutputs`.

    ``pod``: its name, once there is something to read. ``started_at``: of its container, if that may have been long
    ago. ``due_at``: when to read again (monotonic seconds); None: it is being read, or will not be. ``ended_at``: when
    its end was seen first. ``is_lost``: its node may not answer any more. ``has_end``: the last stream ended by itself.
    """

    key: str
    buffer: OutputBuffer = field(default_factory=OutputBuffer)
    position: LogPosition = field(default_factory=LogPosition)
    pod: str = ""
    started_at: datetime | None = None
    due_at: float | None = None
    stream: ApiStream | None = None
    follows: bool = False
    read_since: float = 0.0
    heard_at: float = 0.0
    ended_at: float | None = None
    is_lost: bool = False
    has_end: bool = False
    complete: bool = False
    closed: bool = False
    pause: float = _AGAIN_SECONDS


class PodOutputs:
    """The outputs of attempts by their keys. Any thread may call it.

    ``changed`` is called when a buffer is full, and at the end of an output.
    """

    def __init__(self, api: ClusterApi, changed: Callable[[], None], *, most_streams: int = _MOST_STREAMS) -> None:
        self._api, self._changed, self._most = api, changed, most_streams
        # Guards all outputs. The one is notified when something is to be read, the other when a buffer may have room.
        lock = threading.RLock()
        self._state, self._room = threading.Condition(lock), threading.Condition(lock)
        self._outputs: dict[str, PodOutput] = {}
        self._threads = self._idle = 0
        self._closed = False

    def note(self, key: str, text: str) -> None:
        """Add a line of the worker's own."""
        with self._state:
            self._add_note(self._output(key), text)

    def follow(self, key: str, pod: str, *, started_at: datetime | None = None) -> None:
        """Begin to read a pod's log, unless that has begun; ``started_at``: if its program began long ago, perhaps."""
        with self._state:
            output = self._output(key)
            if output.pod or self._closed:
                return
            output.pod, output.started_at, output.due_at = pod, started_at, time.monotonic()
            self._make_room()

    def note_end(self, key: str, *, is_lost: bool = False) -> None:
        """Note that an attempt has ended; where no pod is known there is nothing more to come."""
        with self._state:
            output = self._output(key)
            if output.ended_at is not None:
                return
            output.ended_at, output.is_lost = time.monotonic(), is_lost
            if not output.pod:
                output.complete = True
            elif output.due_at is not None:
                output.due_at = 0.0
                self._make_room()

    def page(self, key: str, cursor: str, limit: int) -> LogPage:
        """Return buffered output after a cursor."""
        with self._state:
            output = self._output(key)
            was_full = output.buffer.is_full
            chunks, after = output.buffer.take(cursor, limit)
            if was_full:
                self._room.notify_all()
            quiet = time.monotonic() - max(output.heard_at, output.ended_at or 0.0)
            is_stuck = output.ended_at is not None and output.follows and quiet > _END_SILENCE_SECONDS
            if is_stuck and output.stream is not None and output.buffer.is_empty:
                output.stream.interrupt()
            return LogPage(chunks=chunks, cursor=after, complete=not chunks and output.complete)

    def forget(self, key: str) -> None:
        """Read the output of an attempt no more."""
        with self._state:
            if (output := self._outputs.pop(key, None)) is not None:
                output.closed, output.due_at = True, None
                if output.stream is not None:
                    output.stream.interrupt()
                self._room.notify_all()

    def close(self) -> None:
        with self._state:
            self._closed = True
            for key in list(self._outputs):
                self.forget(key)
            self._state.notify_all()

    # ------------------------------------------------------------------------------------------------------------

    def _output(self, key: str) -> PodOutput:
        if key not in self._outputs:
            self._outputs[key] = PodOutput(key=key, closed=self._closed)
        return self._outputs[key]

    def _add_note(self, output: PodOutput, text: str) -> None:
        output.buffer.add([LogChunk(stream="system", data=escaped(text).encode() + b"\n")])

    def _make_room(self) -> None:
        """Have a thread for an output that is due: an idle one, a new one, or that of the log followed the longest."""
        if self._idle:
            self._state.notify()
            return
        if self._threads < self._most:
            self._threads += 1
            name = f"container-manager-logs-{self._threads}"
            threading.Thread(target=self._read_outputs, name=name, daemon=True).start()
            return
        before = time.monotonic() - _TURN_SECONDS
        turns = [each for each in self._outputs.values() if each.stream is not None and each.read_since <= before]
        if turns:
            longest = min(turns, key=lambda each: each.read_since)
            longest.read_since = time.monotonic()
            if longest.stream is not None:
                longest.stream.interrupt()

    def _next(self) -> PodOutput | None:
        """Wait for an output that is due, and take it; None: there was none for a while. The caller holds the lock."""
        until = time.monotonic() + _IDLE_SECONDS
        if self._idle >= _MOST_IDLE:
            # Each would wake for what only one can take.
            until = 0.0
        self._idle += 1
        try:
            while not self._closed:
                now = time.monotonic()
                waiting = [each for each in self._outputs.values() if each.due_at is not None]
                if waiting and (first := min(waiting, key=lambda each: each.due_at or 0.0)).due_at is not None:
                    if first.due_at <= now:
                        first.due_at = None
                        return first
                    if not until:
                        return None
                    # A pause is no idleness.
                    until = now + _IDLE_SECONDS
                    self._state.wait(first.due_at - now)
                elif now >= until:
                    return None
                else:
                    self._state.wait(until - now)
            return None
        finally:
            self._idle -= 1

    def _read_outputs(self) -> None:
        """Read what is due, until nothing is (a thread of its own)."""
        while True:
            with self._state:
                output = self._next()
                if output is None:
                    self._threads -= 1
                    return
                now = time.monotonic()
                is_due = any(each.due_at is not None and each.due_at <= now for each in self._outputs.values())
                # While others wait for a thread, each gets what is there.
                follow = output.ended_at is None and not (is_due and not self._idle and self._threads >= self._most)
                if is_due:
                    self._make_room()
            self._read_once(output, follow=follow)

    def _read_once(self, output: PodOutput, *, follow: bool) -> None:
        begun_after_end = output.ended_at is not None
        try:
            is_rotated = self._read(output, follow=follow)
            output.has_end = True
            if begun_after_end and is_rotated:
                self.note(output.key, _ROTATED)
            again, output.pause = _AGAIN_SECONDS if follow else _TURN_SECONDS, _AGAIN_SECONDS
            is_complete = begun_after_end
        except Absent:
            again, is_complete = output.pause, output.ended_at is not None
            if is_complete and not output.has_end:
                self.note(output.key, _GONE)
        except (Unavailable, ApiRefusal, Outdated) as error:
            again, output.pause = output.pause, min(2 * output.pause, _LONGEST_AGAIN_SECONDS)
            is_over = output.ended_at is not None and time.monotonic() - output.ended_at > _LOST_NODE_SECONDS
            is_complete = output.is_lost and is_over
            output.has_end = False
            if is_complete:
                self.note(output.key, f"The rest of the output cannot be read: {error}")
        except Exception:
            # Of this pod alone: it would end one worker after another.
            logger.exception("The output of %s was not understood, the rest of it is not kept", output.key)
            self.note(output.key, "The rest of the output was not understood.")
            again, is_complete = 0.0, True
        with self._state:
            if output.ended_at is not None and not begun_after_end:
                # The final reading.
                again = 0.0
            output.complete = is_complete
            if not (is_complete or output.closed):
                output.due_at = time.monotonic() + again
                self._state.notify()
        if is_complete:
            self._changed()

    def _read(self, output: PodOutput, *, follow: bool) -> bool:
        """Read a log from the last position to its end; return whether not even what was read last is still there."""
        log, position = StampedLog(output.position), output.position
        silence = _SILENCE_SECONDS if follow else None
        is_first = position.since is None
        with self._api.log(
            output.pod, CONTAINER, follow=follow, since=position.since, silence_seconds=silence or 60.0
        ) as stream:
            with self._state:
                if output.closed:
                    return False
                output.stream, output.follows = stream, follow
                output.heard_at = output.read_since = time.monotonic()
            try:
                for piece in stream.pieces():
                    had_first = log.first is not None
                    new = log.feed(piece)
                    if log.first is not None and not had_first:
                        self._note_missing(output, log, is_first=is_first)
                    if log.doubtful is not None:
                        self.note(output.key, _DOUBTFUL.format(log.doubtful))
                        log.doubtful = None
                    self._add(output, new)
                if log.odd:
                    self.note(output.key, f"The kubelet says: {log.odd[:1000].decode(errors='replace').strip()}")
            finally:
                with self._state:
                    output.stream, output.follows = None, False
        return log.lacks_all

    def _note_missing(self, output: PodOutput, log: StampedLog, *, is_first: bool) -> None:
        if log.missing is not None:
            self.note(output.key, _MISSING.format(log.missing))
        elif is_first and output.started_at is not None and log.first is not None:
            late = log.first / 1e9 - output.started_at.timestamp()
            if late >= _LATE_SECONDS:
                self.note(output.key, _LATE.format(late))

    def _add(self, output: PodOutput, data: bytes) -> None:
        with self._state:
            output.heard_at = time.monotonic()
            if data:
                output.buffer.add([LogChunk(stream="stdout", data=data)])
            is_full = output.buffer.is_full
        if is_full:
            self._changed()
            with self._state:
                self._room.wait_for(lambda: output.closed or not output.buffer.is_full)
                output.heard_at = time.monotonic()
