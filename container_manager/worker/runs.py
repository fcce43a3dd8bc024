"""The attempts in a worker's hands: launch, adopt, follow, stop, abandon and remove them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .. import store
from ..conf import AppSettings
from ..executors.base import (
    DependencyUnavailable,
    ExecutorError,
    ExitStatus,
    Observation,
    Phase,
    Rejected,
    Unavailable,
    Waiting,
)
from ..jobs.package_log import package_logger
from ..jobs.task_failure import failure_message_of
from ..models import FailureReason
from .capped_output import CappedOutput
from .engines import Engines
from .job_limits import within_limits
from .launch_spec import attempt_of, launch_key
from .launcher import Launcher, result_or_error
from .outcomes import closed, failed, outcome_of, storable
from .results import accepted_result
from .run import AttemptKey, Run, Stage
from .timers import Timer

_FLUSH_SECONDS = 0.5
# What the column holds.
_WAIT_CHARACTERS = 1024
# The last line of an output of which there may have been more.
_LOST_OUTPUT = "The output may lack its end. {}"
logger = package_logger(__name__)


class Runs:
    """The attempts that this worker runs. It never touches the database.

    Only the worker's own thread calls it, except `note_change`; ``wake`` is called when a launch has a result.
    """

    def __init__(self, engines: Engines, settings: AppSettings, wake: Callable[[], None]) -> None:
        self._engines, self._settings, self._wake = engines, settings, wake
        self._runs: dict[AttemptKey, Run] = {}
        self._launcher = Launcher(settings, wake, identity=engines.identity)
        self._new_output = partial(CappedOutput, settings.log_limit_bytes)
        self._flush = Timer(_FLUSH_SECONDS)
        self._observe = Timer(settings.poll_seconds)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def timers(self) -> list[Timer]:
        """The timers to wait for."""
        return [self._flush, self._observe] if self._runs else []

    def note_change(self) -> None:
        """Be told, by any thread, that an engine may have news."""
        self._flush.hurry()
        self._wake()

    def close(self) -> None:
        """Wait for the launches that are on their way; `Engines.close` comes first and gives them up."""
        self._launcher.close()

    def turn(self) -> None:
        """Take note of what has happened since the last turn."""
        self._collect_launches()
        self._collect_exits()
        self._stop_overdue()
        if self._flush.take_due():
            self._read_outputs()
        self._read_last_outputs()

    def take_on(self, job: store.ClaimedJob) -> None:
        """Launch a claimed job."""
        self._launcher.begin(self._hold(job, engine=self._engines.identity(job.spec.executor)))

    def can_adopt(self, found: store.OwnedAttempt) -> bool:
        """Tell whether this worker serves the attempt's executor, and with an engine of its kind."""
        executor = self._engines.executors.get(found.job.spec.executor)
        return executor is not None and executor.capabilities.survives_worker == bool(found.engine)

    def adopt(self, found: store.OwnedAttempt, *, by: str) -> None:
        """Go on with an attempt that another worker began, or that this one claimed without getting the answer."""
        job, is_wanted = found.job, found.status == "running"
        survives = self._engines.executors[job.spec.executor].capabilities.survives_worker
        # Without a handle nobody knows whether it was launched: to launch it again is harmless. One that does not
        # survive its worker is launched only where the answer to this worker's own claim was lost.
        launches = is_wanted and not found.handle and (survives or found.claimed_by == by)
        stage = Stage.LAUNCHING if launches else Stage.RUNNING
        run = self._hold(job, engine=found.engine, stage=stage, adopted=True)
        run.handle, run.handle_stored = found.handle or run.key, bool(found.handle)
        run.running_since = time.monotonic()
        if launches:
            self._launcher.begin(run)
            return
        self._launcher.mask_adopted(run)
        run.begin_deadline(elapsed_seconds=job.elapsed_seconds)
        if not is_wanted:
            run.killed = found.kill_requested
            self.stop(run, "cancelled", grace=run.grace_seconds)
        self._engines.note_change(job.spec.executor)

    def read_progress(self) -> list[Run]:
        """Read how far attempts say that they have come; return those of which that is not stored."""
        for run in self._at(Stage.RUNNING):
            data = result_or_error(partial(run.executor.progress, run.handle or run.key))
            if not isinstance(data, Exception):
                run.note_progress(data)
        return [run for run in self if not run.progress_stored and run.outcome is None]

    def stop(self, run: Run, why: str, *, grace: float) -> None:
        """Stop an attempt; ``why`` decides what its end will mean."""
        run.stopped_for = why
        if run.stage in (Stage.LAUNCHING, Stage.RUNNING):
            result = result_or_error(lambda: run.executor.stop(run.handle or run.key, grace))
            if isinstance(result, Unavailable):
                run.stopped_for = None

    def kill(self, run: Run) -> None:
        """Kill a cancelled attempt, though its grace period is not over."""
        run.killed = True
        self.stop(run, run.stopped_for or "cancelled", grace=0.0)
        # Else it is told again.
        run.killed = run.stopped_for is not None

    def abandon(self, run: Run) -> None:
        """We lost ownership: kill the local process, or stop following the container.

        One that is being launched is abandoned once the result of the launch is known.
        """
        run.abandoned = True
        if run.waiting_for:
            # Then that is at once.
            run.executor.release(run.key)
        # Another run of the same attempt: this worker has got it back meanwhile.
        is_replaced = self._runs.get(run.id) is not run
        if run.stage is Stage.LAUNCHING or is_replaced:
            return
        del self._runs[run.id]
        if run.executor.capabilities.survives_worker:
            # Its new owner may have adopted the container.
            run.executor.release(run.handle or run.key)
        elif run.handle:
            self.remove_from_engine(run.job.spec.executor, run.handle, failed=False)

    def remove(self, run: Run) -> None:
        """Forget an attempt whose end is stored, and remove it from its engine."""
        self._runs.pop(run.id, None)
        failed = run.outcome is not None and run.outcome.status == "failed"
        self.remove_from_engine(run.job.spec.executor, run.handle or run.key, failed=failed)

    def remove_from_engine(self, alias: str, handle: str, *, failed: bool) -> None:
        """Remove what an engine holds of an attempt that is over, without waiting for it."""
        executor = self._engines.executors[alias]
        # One that cannot be removed now is found by the next sweep.
        self._launcher.call(alias, executor, partial(executor.remove, handle, failed=failed), done=lambda _: None)

    def unknown_attempts(self) -> dict[str, dict[AttemptKey, str]]:
        """Return by alias the attempts that engines hold and this worker does not, with their handles."""
        found: dict[str, dict[AttemptKey, str]] = {}
        for alias in self._engines.reachable:
            executor = self._engines.executors[alias]
            if executor.capabilities.survives_worker:
                observed = result_or_error(executor.observe)
                if not isinstance(observed, Exception):
                    others = {attempt_of(o.key): o.handle for o in observed.attempts}
                    found[alias] = {key: handle for key, handle in others.items() if key and key not in self._runs}
        return found

    def _at(self, stage: Stage) -> list[Run]:
        return [run for run in self._runs.values() if run.stage is stage]

    def _hold(
        self, job: store.ClaimedJob, *, engine: str, stage: Stage = Stage.LAUNCHING, adopted: bool = False
    ) -> Run:
        job = within_limits(job, self._settings)
        timeout = job.spec.timeout_seconds
        output = self._new_output
        if adopted:
            output = partial(output, replaces=True, was_launched=stage is not Stage.LAUNCHING)
        run = Run(
            job=job,
            executor=self._engines.executors[job.spec.executor],
            key=launch_key(job, self._settings),
            engine=engine,
            begin_output=output,
            claimed_at=time.monotonic() - job.elapsed_seconds,
            # What is no number is an error here, where it is known whose it is.
            timeout_seconds=None if timeout is None else timeout + 0.0,
            stage=stage,
        )
        self._runs[run.id] = run
        return run

    # -- launches ------------------------------------------------------------------------------------------------

    def _collect_launches(self) -> None:
        for run, result in self._launcher.results():
            if run.stage is not Stage.LAUNCHING:
                continue
            if isinstance(result, str):
                self._note_launched(run, result)
            elif run.abandoned:
                run.enter(Stage.ENDED)
                self.abandon(run)
            elif isinstance(result, Waiting):
                run.wait_for(storable(str(result))[:_WAIT_CHARACTERS])
                run.launch_until = 0.0
                self._engines.note_answer(run.job.spec.executor)
            elif isinstance(result, Unavailable):
                self._launch_again(run, result)
            else:
                self._end_unlaunched(run, result)

    def _note_launched(self, run: Run, handle: str) -> None:
        run.enter(Stage.RUNNING)
        run.handle, run.running_since = handle, time.monotonic()
        run.begin_deadline()
        self._engines.note_answer(run.job.spec.executor)
        self._engines.note_change(run.job.spec.executor)
        if run.abandoned:
            self.abandon(run)
        elif run.stopped_for is not None:
            self.stop(run, run.stopped_for, grace=run.grace_seconds)

    def _launch_again(self, run: Run, error: Unavailable) -> None:
        """Try a launch again later, or end it once its engine has been away for too long."""
        # Since its first failure, not since the claim: to pull an image may have taken longer than that.
        run.launch_until = run.launch_until or time.monotonic() + self._settings.unreachable_seconds
        if time.monotonic() >= run.launch_until:
            self._end_unlaunched(run, error)
            return
        if not isinstance(error, DependencyUnavailable):
            self._engines.note_away(run.job.spec.executor)
        self._launcher.begin_later(run)

    def _end_unlaunched(self, run: Run, error: Exception) -> None:
        if isinstance(error, Rejected | Unavailable) and error.reason in FailureReason.values:
            reason, message = error.reason, str(error)
        else:
            logger.error("Executor %s failed to launch job=%s", run.job.spec.executor, run.job.id, exc_info=error)
            reason = "start"
            message = f"The executor failed: {type(error).__name__}: {error}. The worker's log has the traceback."
        message = run.masked(message)
        run.enter(Stage.ENDED)
        run.exit = ExitStatus(message=message)
        result_or_error(run.read_output)
        run.prepare_log_change(everything=True)
        if run.stopped_for == "cancelled":
            run.outcome = closed(run.job, None, message)
        elif run.stopped_for is not None:
            run.outcome = outcome_of(run.job, ExitStatus(), stopped_for=run.stopped_for, retry=self._settings.retry)
        else:
            exit_status = ExitStatus(may_run=reason == "lost")
            run.outcome = failed(run.job, reason, message, exit_status=exit_status, retry=self._settings.retry)

    # -- exits ---------------------------------------------------------------------------------------------------

    def _collect_exits(self) -> None:
        every = self._observe.take_due()
        for alias, executor in self._engines.executors.items():
            if not (every or self._engines.has_changed(alias)):
                continue
            running = [run for run in self._at(Stage.RUNNING) if run.job.spec.executor == alias]
            # With nothing running, an engine is asked only to learn whether it answers.
            if not (running or executor.capabilities.survives_worker or alias not in self._engines.reachable):
                continue
            observed = self._engines.observe(alias)
            if isinstance(observed, Unavailable):
                self._note_unreachable(running, f"The engine could not be reached: {observed}")
                continue
            engine, by_key = self._engines.identity(alias), {o.key: o for o in observed.attempts}
            self._note_unreachable(
                [run for run in running if run.engine != engine],
                f"Its engine could not be reached: executor {alias} is another one now.",
            )
            for run in running:
                if run.engine == engine:
                    run.unreachable_since = None
                    self._take_note(run, by_key.get(run.key), observed.as_of)

    def _note_unreachable(self, running: Iterable[Run], message: str) -> None:
        """Give up attempts whose engine has been away for too long; each counts from its own adoption."""
        now, bound = time.monotonic(), self._settings.unreachable_seconds
        for run in running:
            if run.unreachable_since is None:
                run.unreachable_since = now
            # A cancelled attempt is closed only once it is known to have ended.
            if now - run.unreachable_since >= bound and run.stopped_for != "cancelled":
                self._give_up(run, f"{message} It was given up after {bound:g} s (UNREACHABLE_SECONDS).")

    def _take_note(self, run: Run, observation: Observation | None, as_of: float) -> None:
        if observation is None or observation.phase is Phase.CREATED:
            if as_of >= run.running_since:
                self._give_up(
                    run, "Its engine has it no longer: somebody removed the container, or the engine lost it."
                )
        elif observation.phase is Phase.EXITED:
            run.enter(Stage.EXITED)
            run.exit, run.exited_at = observation.exit or ExitStatus(lost=True), time.monotonic()

    def _give_up(self, run: Run, message: str) -> None:
        if result_or_error(partial(run.read_output, to_end=True)) is not True:
            run.note(_LOST_OUTPUT.format(message))
        self._end(run, ExitStatus(lost=True, may_run=True, message=message))

    def _end(self, run: Run, exit_status: ExitStatus) -> None:
        run.note_progress(exit_status.progress)
        result, refused = None, ""
        if exit_status.result is not None or exit_status.result_refused:
            masked = None if run.mask is None else run.masked
            result, refused = accepted_result(exit_status, most_bytes=self._settings.result_limit_bytes, masked=masked)
        if refused:
            run.note(refused)
        run.prepare_log_change(everything=True)
        run.enter(Stage.ENDED)
        if run.job.spec.task and not (exit_status.succeeded or exit_status.message):
            exit_status = exit_status._replace(message=failure_message_of(exit_status.result))
        if run.mask is not None:
            exit_status = exit_status._replace(message=run.masked(exit_status.message))
        run.exit = exit_status
        if run.stopped_for == "cancelled":
            run.outcome = closed(run.job, exit_status, "Stopped: the job was cancelled.")
        else:
            run.outcome = outcome_of(run.job, exit_status, stopped_for=run.stopped_for, retry=self._settings.retry)
        if result is not None or refused:
            # Its verdict is its exit's; the words go where there are no others.
            message = run.outcome.message or storable(refused)
            run.outcome = run.outcome._replace(result=result, message=message)

    def _stop_overdue(self) -> None:
        for run in self:
            if run.is_overdue() and run.stage in (Stage.LAUNCHING, Stage.RUNNING):
                self.stop(run, "timeout", grace=run.grace_seconds)

    # -- output --------------------------------------------------------------------------------------------------

    def _read_outputs(self) -> None:
        for run in self:
            if run.stage in (Stage.LAUNCHING, Stage.RUNNING):
                result_or_error(run.read_output)

    def _read_last_outputs(self) -> None:
        """Read the rest of the output of exited attempts, then end them; in the end also without it."""
        for run in self._at(Stage.EXITED):
            try:
                complete = run.read_output(to_end=True)
            except ExecutorError:
                complete = False
            if complete or time.monotonic() - run.exited_at > self._settings.unreachable_seconds:
                if not complete:
                    logger.warning("The end of the output of job=%s attempt=%s could not be read", *run.id)
                    run.note(_LOST_OUTPUT.format("The engine did not give it out."))
                self._end(run, run.exit or ExitStatus(lost=True))
