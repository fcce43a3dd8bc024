"""An executor as somebody else writes one, with nothing but the package: local processes by Python's own subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import ClassVar

from container_manager.executors.base import (
    Capabilities,
    Executor,
    ExitStatus,
    Health,
    LaunchSpec,
    LogChunk,
    LogPage,
    Observation,
    Observations,
    Phase,
    Rejected,
    Stream,
    Unavailable,
)


class _Attempt:
    def __init__(self, spec: LaunchSpec) -> None:
        self.chunks: list[LogChunk] = []
        self.exit: ExitStatus | None = None
        self.process = subprocess.Popen(
            spec.argv,
            env={"PATH": os.defpath, **spec.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


class PopenExecutor(Executor):
    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=False, isolates=False)

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempt] = {}
        self._changed = threading.Condition(threading.RLock())
        self._news = self._closed = False

    def submit(self, spec: LaunchSpec) -> str:
        with self._changed:
            if self._closed:
                raise Unavailable("closed")
            if spec.key not in self._attempts:
                try:
                    attempt = self._attempts[spec.key] = _Attempt(spec)
                except OSError as error:
                    raise Rejected("start", f"{spec.argv[0]}: {error}") from error
                threading.Thread(target=self._keep, args=(attempt,), daemon=True).start()
            return spec.key

    def observe(self) -> Observations:
        with self._changed:
            found = [
                Observation(key, key, Phase.EXITED if attempt.exit else Phase.RUNNING, attempt.exit)
                for key, attempt in self._attempts.items()
            ]
            return Observations(attempts=found, as_of=time.monotonic())

    def watch(self, timeout: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._closed, timeout)
            news, self._news = self._news, False
            return news

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        with self._changed:
            attempt, first = self._attempts.get(handle), int(cursor or 0)
            if attempt is None:
                return LogPage([], cursor, complete=True)
            chunks = attempt.chunks[first:]
            return LogPage(chunks, str(first + len(chunks)), attempt.exit is not None)

    def stop(self, handle: str, grace_seconds: float) -> None:
        with self._changed:
            attempt = self._attempts.get(handle)
            if attempt is None or attempt.exit is not None:
                return
            _signal(attempt, signal.SIGTERM if grace_seconds else signal.SIGKILL)
            timer = threading.Timer(min(grace_seconds, threading.TIMEOUT_MAX), _signal, (attempt, signal.SIGKILL))
            timer.daemon = True
            timer.start()

    def remove(self, handle: str, *, failed: bool = False) -> None:
        with self._changed:
            attempt = self._attempts.pop(handle, None)
            if attempt is not None:
                _signal(attempt, signal.SIGKILL)

    def check(self) -> Health:
        return Health(ok=not self._closed, message="closed" if self._closed else "ready")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for key in list(self._attempts):
                self.remove(key)
            self._changed.notify_all()

    def _keep(self, attempt: _Attempt) -> None:
        readers = [
            threading.Thread(target=self._read, args=(attempt, stream), daemon=True) for stream in ("stdout", "stderr")
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        code = attempt.process.wait()
        with self._changed:
            attempt.exit = ExitStatus(code=code) if code >= 0 else ExitStatus(signal=-code)
            self._tell()

    def _read(self, attempt: _Attempt, stream: Stream) -> None:
        pipe = attempt.process.stdout if stream == "stdout" else attempt.process.stderr
        assert pipe is not None
        with pipe:
            while data := os.read(pipe.fileno(), 65536):
                with self._changed:
                    attempt.chunks.append(LogChunk(stream=stream, data=data))
                    self._tell()

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()


def _signal(attempt: _Attempt, number: int) -> None:
    if attempt.process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(attempt.process.pid, number)
