"""The contract of executors: values in and out, and two kinds of error.

Values that are created for every attempt are tuples, which are much faster to create than frozen dataclasses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from inspect import signature
from typing import Any, ClassVar, Literal, NamedTuple, Self

from ..conf import AppSettings
from ..jobs.container_request import ContainerRequest
from ..jobs.spec import JobSpec

Stream = Literal["stdout", "stderr", "system"]
# Names the folder of the secrets that a job has as files.
SECRETS_VARIABLE = "CONTAINER_MANAGER_SECRETS"
# Names the file into which a job may write its result.
RESULT_VARIABLE = "CONTAINER_MANAGER_RESULT"
# Says how many bytes a result may have, where that is fewer than `AppSettings.result_limit_bytes`.
RESULT_BYTES_VARIABLE = "CONTAINER_MANAGER_RESULT_BYTES"
# Names the file into which a job may write how far it has come.
PROGRESS_VARIABLE = "CONTAINER_MANAGER_PROGRESS"


class ExecutorError(Exception):
    """Base of what an executor raises."""


class Unavailable(ExecutorError):
    """The engine does not answer, or cannot do this now; it may later.

    Nothing is known about its attempts: their status must not change. ``reason``: the failure reason of a launch that
    fails so until it is given up; by ``lost`` it may have run.
    """

    reason: ClassVar[str] = "lost"


class DependencyUnavailable(Unavailable):
    """The engine answers, but cannot do this launch now, for lack of a registry or of disk space, say.

    Others may launch, and this attempt has not run.
    """

    reason = "unavailable"


class Waiting(ExecutorError):
    """The launch waits for something that takes its time, such as a pull, without a thread that waits.

    The text names what it is. ``until`` has a result when the attempt is to be submitted again, and an exception if the
    launch has failed. `Executor.stop` and `Executor.release` end the wait.
    """

    def __init__(self, what: str, until: Future[None]) -> None:
        self.until = until
        super().__init__(what)


class Rejected(ExecutorError):
    """The engine answered that it will never run this attempt.

    ``reason`` is a failure reason: ``image`` or ``start``; ``unavailable`` where it was tried for long enough; ``lost``
    where the attempt may have run already.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One attempt to run. ``key`` identifies it: submitting the same key twice runs it once.

    ``job`` is what its author asked for. ``argv``, ``environment`` and ``container`` are the same resolved: the words
    of the command, the variables with the secrets' values, the checked request. ``secret_files``: name → content; the
    executor puts them where only the job finds them, in memory, and says where in ``SECRETS_VARIABLE``. The repr shows
    no variable's value. What ``job`` names as a secret of the engine's own is in none of these.
    ``is_wanted`` returns False, for good, once the worker has lost the attempt: an executor that starts it in several
    steps asks before each, after it has checked that the last heartbeat has not expired (`Executor.heartbeat`).
    """

    key: str
    argv: tuple[str, ...]
    job: JobSpec = field(default=JobSpec(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    container: ContainerRequest = field(default_factory=ContainerRequest)
    is_wanted: Callable[[], bool] = field(default=_always, repr=False, compare=False)


class Phase(Enum):
    """How far an attempt has come. An attempt that is only created has never run."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class ExitStatus(NamedTuple):
    """How a command ended: its exit code or the signal that ended it, and the resources it used, where known.

    Both are set where the engine reports only the exit code that stands for a signal. ``lost``: the engine ended it,
    and the command itself did not fail. ``unstarted``: the command could not be started, as was seen after the launch.
    ``reason``: the failure reason where the engine knows it better than these tell, such as ``node_lost``; "": it does
    not. ``may_run``: nobody has shown that the command has stopped.
    ``result``: what it has left as its result, as it is, perhaps no JSON at all; None: nothing, or
    ``result_refused`` says why it was not read. An executor reads no more than `AppSettings.result_limit_bytes`.
    ``progress``: what `Executor.progress` would have returned last.
    """

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    lost: bool = False
    unstarted: bool = False
    message: str = ""
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    result: bytes | None = None
    result_refused: str = ""
    progress: bytes | None = None
    reason: str = ""
    may_run: bool = False

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and not (self.lost or self.reason)


class Observation(NamedTuple):
    """The state of one attempt in the engine. ``exit`` is set once it has exited."""

    key: str
    handle: str
    phase: Phase
    exit: ExitStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """The attempts of this installation that the engine holds.

    An attempt that was launched before ``as_of`` (monotonic seconds) and is not among them is held no more. ``engine``
    is the identity of the engine that says so, at most 64 characters, the same for all workers that reach this engine;
    "" where an alias always means the same engine. ``as_of`` is 0 before it has answered.
    """

    attempts: Sequence[Observation]
    as_of: float
    engine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of output from one stream."""

    stream: Stream
    data: bytes


class LogPage(NamedTuple):
    """Output after a cursor. Pass ``cursor`` to read on; ``complete``: there is no more output, now or later."""

    chunks: Sequence[LogChunk]
    cursor: str
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an executor can do.

    ``survives_worker``: attempts go on without their worker and can be adopted. ``isolates``: a job cannot touch the
    host. ``launch_threads``: how many launches may run at once; 0: a launch never blocks. ``secret_files``: a launch's
    secret files arrive; without it a job that has some is rejected. ``engine_secrets``: jobs may name secrets that the
    engine itself holds (``kubernetes:NAME/KEY``), for variables and for files. ``separate_streams``: output says
    whether it came on stdout or stderr; without it all is stdout.
    """

    survives_worker: bool
    isolates: bool
    launch_threads: int = 4
    secret_files: bool = False
    engine_secrets: bool = False
    separate_streams: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the engine answers, a description of it, and its identity, CPUs and memory where it reports them.

    ``warnings``: what it cannot do, such as hold a limit.
    """

    ok: bool
    message: str
    engine: str = ""
    cpu_count: int | None = None
    memory_bytes: int | None = None
    warnings: Sequence[str] = ()


class Executor(ABC):
    """Runs attempts. Any thread may call any method; each may raise `Unavailable`.

    Let the names of its own threads begin with ``container-manager-``: one that ends by an error then ends the worker.
    Otherwise nobody would know.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        """Return an executor with the ``OPTIONS`` of its alias.

        Raises TypeError for an unknown option, and ImproperlyConfigured for a wrong value.
        """
        cls.check_options(options, settings)
        return cls(**options)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        """Raise what `from_settings` raises, without connecting to anything: for a system check."""
        signature(cls).bind(**options)

    @classmethod  # noqa: B027  # most need nothing of the host
    def check_host(cls) -> None:
        """Raise ImproperlyConfigured, which says what to do, where a worker on this host cannot use this executor."""

    @abstractmethod
    def submit(self, spec: LaunchSpec) -> str:
        """Start the attempt, or adopt it where its key was started before; return its handle.

        Raises Rejected where it can never run, and Waiting where it is to be submitted again later.
        """

    @abstractmethod
    def observe(self) -> Observations:
        """Return every attempt of this installation that the engine is known to hold; never wait for the engine."""

    @abstractmethod
    def watch(self, timeout: float) -> bool:
        """Wait until something may have changed, at most ``timeout`` seconds; return whether it has. Only a hint."""

    @abstractmethod
    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        """Return about ``limit`` bytes of output after the cursor ("" for the start); never wait for more.

        Output before the cursor may be dropped.
        """

    @abstractmethod
    def stop(self, handle: str, grace_seconds: float) -> None:
        """Ask the attempt to end, and kill it after the grace period. Returns at once; harmless when repeated: of
        several grace periods the one that ends first holds.

        A launch that is still in progress may be abandoned.
        """

    @abstractmethod
    def remove(self, handle: str, *, failed: bool = False) -> None:
        """Kill the attempt if it still runs, and delete what the engine holds of it. Harmless when it is gone.

        One that ``failed`` may be kept for a while for inspection: then this is called again from time to time.
        """

    @abstractmethod
    def check(self) -> Health:
        """Return whether attempts could be started now. Never raises."""

    def progress(self, handle: str) -> bytes | None:
        """Return the end of what the attempt has written into its progress file, as it is known; never wait for it.

        At most ``PROGRESS_BYTES`` of `container_manager.jobs.progress_lines`, and no line that is cut at its beginning.
        None: nothing, or nothing that can be read, or this executor offers no such file. Called every few seconds.
        """
        return None

    def release(self, handle: str) -> None:  # noqa: B027  # nothing to do where attempts end with their worker
        """Stop following an attempt that is now another worker's; it goes on. Never raises."""

    def maintain(self) -> None:  # noqa: B027  # nor has every engine anything to look after
        """Begin the housekeeping that is due, in a thread of its own, and return at once. Never raises.

        Each worker that goes on by itself calls it from time to time, while the engine answers.
        """

    def heartbeat(self, seconds: float) -> None:  # noqa: B027  # not every engine needs it
        """Note that the worker is alive, and will send another heartbeat within this many seconds."""

    def close(self) -> None:  # noqa: B027  # nor this
        """Disconnect. Kill attempts that do not survive their worker, and abandon launches in progress."""
