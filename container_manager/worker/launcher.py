"""Start attempts: at once where an engine answers at once, else by a few threads for each engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from ..conf import AppSettings
from ..executors.base import Executor, ExecutorError, LaunchSpec, Rejected, Unavailable
from .launch_spec import launch_key, launch_spec
from .runs import Run

T = TypeVar("T")
_AGAIN_SECONDS = 1.0
logger = logging.getLogger(__name__)


class Launcher:
    """Launcher on their way. Only the worker's own thread calls it; ``wake`` is called when one has a result."""

    def __init__(self, settings: AppSettings, wake: Callable[[], None]) -> None:
        self._settings, self._wake = settings, wake
        self._results: SimpleQueue[tuple[Run, str | Exception]] = SimpleQueue()
        self._later: list[tuple[float, Run]] = []
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def begin(self, held: Run) -> None:
        try:
            spec = launch_spec(held.job, self._settings, key=held.key, is_wanted=lambda: held.mine)
        except Exception as error:
            # Whatever it is, it is this job's: the next worker must not die of it too.
            self._note(held, error)
            return
        submit = partial(_submit, held, spec, self._settings)
        self.run(held.job.spec.executor, held.executor, submit, done=partial(self._note, held))

    def begin_later(self, held: Run) -> None:
        """Begin again in a moment: the engine is away, or what the launch needs beside it."""
        self._later.append((time.monotonic() + _AGAIN_SECONDS, held))

    def results(self) -> Iterator[tuple[Run, str | Exception]]:
        """Yield the launches that have come to an end, each with its handle or why there is none."""
        now = time.monotonic()
        due, self._later = [e for e in self._later if e[0] <= now], [e for e in self._later if e[0] > now]
        for _, held in due:
            self.begin(held)
        while not self._results.empty():
            yield self._results.get()

    def run(
        self, alias: str, executor: Executor, work: Callable[[], T], *, done: Callable[[T | Exception], None]
    ) -> None:
        """Have an engine do something, and pass on the result, or its error as a value."""
        threads = executor.capabilities.launch_threads
        if not threads:
            done(attempt(work))
            return
        if alias not in self._pools:
            self._pools[alias] = ThreadPoolExecutor(threads, thread_name_prefix=f"container-manager-{alias}")
        self._pools[alias].submit(attempt, work).add_done_callback(lambda future: done(future.result()))

    def close(self) -> None:
        """Wait for what is on its way."""
        for pool in self._pools.values():
            pool.shutdown()

    def _note(self, held: Run, result: str | Exception) -> None:
        self._results.put((held, result))
        self._wake()


def attempt(work: Callable[[], T]) -> T | Exception:
    """Return a result, or the executor's error as a value."""
    try:
        return work()
    except ExecutorError as error:
        return error
    except Exception as error:
        logger.exception("An executor failed")
        return error


def _submit(held: Run, spec: LaunchSpec, settings: AppSettings) -> str:
    """Start an attempt, unless what was to be has changed while it waited for a launch thread."""
    if not spec.is_wanted():
        raise Unavailable("The job is another worker's by now.")
    if held.stopped_for is not None:
        raise Rejected("start", "It was stopped before it had started.")
    if held.job.attempt > 1 and held.executor.capabilities.survives_worker:
        # The attempt before this one may run on, if it was given up while its engine was away.
        held.executor.remove(launch_key(held.job, settings, number=held.job.attempt - 1), failed=True)
    return held.executor.submit(spec)
