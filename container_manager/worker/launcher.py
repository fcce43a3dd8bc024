"""Launch attempts: in the worker's own thread where a launch never waits, else by a few threads for each engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from ..conf import AppSettings
from ..executors.base import (
    Capabilities,
    DependencyUnavailable,
    Executor,
    ExecutorError,
    LaunchSpec,
    Rejected,
    Unavailable,
    Waiting,
)
from ..jobs.package_log import package_logger
from .launch_spec import adopted_secret_values, engine_references, launch_key, launch_spec, secret_values
from .masking import Mask
from .run import Run
from .threads import fail_thread

T = TypeVar("T")
_AGAIN_SECONDS = 1.0
# How long calls that have no thread yet may still get one when the worker ends.
_CLOSE_SECONDS = 5.0
logger = package_logger(__name__)


class EngineReplaced(DependencyUnavailable):
    """The executor is another engine than the attempt's, which may have run it. Others may launch."""

    reason = "lost"


class Launcher:
    """Launches attempts. Only the worker's own thread calls it; ``wake`` is called when a launch has a result.

    ``identity`` returns the identity of an alias' engine.
    """

    def __init__(self, settings: AppSettings, wake: Callable[[], None], *, identity: Callable[[str], str]) -> None:
        self._settings, self._wake, self._identity = settings, wake, identity
        self._results: SimpleQueue[tuple[Run, str | Exception]] = SimpleQueue()
        # Those that need not wait any more.
        self._ready: SimpleQueue[Run] = SimpleQueue()
        self._later: list[tuple[float, Run]] = []
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._calls: set[Future[Any]] = set()

    def begin(self, run: Run) -> None:
        """Begin a launch, also one that has waited; `results` yields what came of it."""
        run.wait_for("")
        # In the engine's threads, if it has any: what the values of some jobs cost must not hold up the loop.
        submit = partial(self._submit, run)
        self.call(run.job.spec.executor, run.executor, submit, done=partial(self._add_result, run))

    def mask_adopted(self, run: Run) -> None:
        """Have the output of an attempt that another worker launched masked, with the values that its secrets have now.

        Values that cannot be read here are not masked.
        """
        if self._settings.mask_secrets and (run.job.spec.secrets or run.job.spec.secret_files):
            try:
                run.mask = self._mask(adopted_secret_values(run.job.spec, self._settings))
            except Exception as error:
                logger.warning("The output of job=%s attempt=%s is not masked: %s", *run.id, error)

    def begin_later(self, run: Run) -> None:
        """Begin again after a pause: the engine, or another service that the launch needs, is away."""
        self._later.append((time.monotonic() + _AGAIN_SECONDS, run))

    def results(self) -> Iterator[tuple[Run, str | Exception]]:
        """Yield the launches that are done, each with its handle or the error; one may be Waiting, and comes again."""
        now = time.monotonic()
        due, self._later = [e for e in self._later if e[0] <= now], [e for e in self._later if e[0] > now]
        for _, run in due:
            self.begin(run)
        while not self._ready.empty():
            self.begin(self._ready.get())
        while not self._results.empty():
            yield self._results.get()

    def call(
        self, alias: str, executor: Executor, work: Callable[[], T], *, done: Callable[[T | Exception], None]
    ) -> None:
        """Call an engine, in a thread where that may wait, and pass ``done`` the result or the error as a value."""
        threads = executor.capabilities.launch_threads
        if not threads:
            done(result_or_error(work))
            return
        if alias not in self._pools:
            self._pools[alias] = ThreadPoolExecutor(threads, thread_name_prefix=f"container-manager-{alias}")
        self._calls.add(call := self._pools[alias].submit(_call, work, done))
        call.add_done_callback(self._calls.discard)

    def close(self) -> None:
        """Wait for the calls that are on their way, and for a short while for those that wait for a thread.

        What they were to remove is found by the next sweep.
        """
        wait(list(self._calls), timeout=_CLOSE_SECONDS)
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def _mask(self, values: Sequence[bytes]) -> Mask | None:
        return Mask(values) if values and self._settings.mask_secrets else None

    def _submit(self, run: Run) -> str:
        """Launch an attempt, unless it was abandoned or stopped while it waited for a thread."""
        if run.abandoned:
            raise Unavailable("The job is another worker's by now.")
        if run.stopped_for is not None:
            raise Rejected("start", "It was stopped before it had started.")
        if run.engine != self._identity(run.job.spec.executor):
            # The engine that has the attempt may run it already.
            raise EngineReplaced("Its engine could not be reached: the executor is another one now.")
        if run.job.attempt > 1 and run.executor.capabilities.survives_worker:
            # The previous attempt may still run: it was perhaps given up while its engine was away.
            run.executor.remove(launch_key(run.job, self._settings, number=run.job.attempt - 1), failed=True)
        spec = launch_spec(run.job, self._settings, key=run.key, is_wanted=lambda: not run.abandoned)
        if spec.job.secrets or spec.job.secret_files:
            # Before there is any output.
            run.mask = self._mask(secret_values(spec))
            _check_delivery(spec, run.executor.capabilities)
        try:
            return run.executor.submit(spec)
        except Exception as error:
            if run.mask is not None:
                # For the log, where its traceback may go.
                _mask_error(error, run.mask)
            raise

    def _add_result(self, run: Run, result: str | Exception) -> None:
        self._results.put((run, result))
        self._wake()
        if isinstance(result, Waiting):
            result.until.add_done_callback(partial(self._end_wait, run))

    def _end_wait(self, run: Run, until: Future[None]) -> None:
        """Note that a launch need not wait any more (any thread)."""
        error = until.exception()
        if isinstance(error, Exception):
            self._add_result(run, error)
        else:
            self._ready.put(run)
            self._wake()


def _call(work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
    """Do what a pool's thread is there for; what is no mere exception ends the worker, as it would end a thread."""
    try:
        done(result_or_error(work))
    except BaseException as error:
        fail_thread(error)


def _check_delivery(spec: LaunchSpec, capabilities: Capabilities) -> None:
    """Raise Rejected for secrets that an executor does not deliver."""
    if spec.secret_files and not capabilities.secret_files:
        raise Rejected("start", "The job has secrets as files, which this executor does not deliver.")
    if not capabilities.engine_secrets and (named := engine_references(spec)):
        raise Rejected("start", f"The secret {named[0]!r} is a cluster's, which only a Kubernetes executor has.")


def _mask_error(error: BaseException | None, mask: Mask) -> None:
    """Mask what an error and those that it came from say."""
    while error is not None:
        error.args = tuple(mask.text(arg) if isinstance(arg, str) else arg for arg in error.args)
        error = error.__cause__ or error.__context__


def result_or_error(work: Callable[[], T]) -> T | Exception:
    """Return what a call to an executor returns or raises; log what is not an `ExecutorError`."""
    try:
        return work()
    except ExecutorError as error:
        return error
    except Exception as error:
        logger.exception("An executor failed")
        return error
