"""What an executor is: values in and out, and two kinds of error.

Values that are made anew for every attempt are tuples, which takes a fraction of the time of frozen dataclasses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from inspect import signature
from typing import Any, ClassVar, Literal, NamedTuple, Self

from ..conf import AppSettings
from ..jobs.container_request import ContainerRequest
from ..jobs.spec import JobSpec

Stream = Literal["stdout", "stderr", "system"]


class ExecutorError(Exception):
    """Base of what an executor raises."""


class Unavailable(ExecutorError):
    """It could not be done now, and may be later: the engine does not answer.

    Nothing is known about its jobs: their status must stay as it is.
    """


class DependencyUnavailable(Unavailable):
    """The engine answers, but what this launch needs beside it does not, say a registry. Others may be launched."""


class Rejected(ExecutorError):
    """The engine answered, and will never run this.

    ``reason`` is a failure reason: ``image`` or ``start``; ``lost`` where it may have run this already.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One attempt to run. ``key`` names it for ever: submitting the same key twice runs it once.

    ``job`` is what its author asked for. ``argv``, ``environment`` and ``container`` are the same resolved: the words
    of the command, the variables with the secrets' values, the checked request. The repr shows no variable's value.
    ``is_wanted`` turns False, for good, once the worker has lost the attempt: an executor that starts it in several
    steps asks before each, and after it has made sure that the worker was heard of in time (`Executor.heartbeat`).
    """

    key: str
    argv: tuple[str, ...]
    job: JobSpec = field(default=JobSpec(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    container: ContainerRequest = field(default_factory=ContainerRequest)
    is_wanted: Callable[[], bool] = field(default=_always, repr=False, compare=False)


class Phase(Enum):
    """How far an attempt has come. One that is only created has never run."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class ExitStatus(NamedTuple):
    """How a command ended: an exit code, or the signal that ended it, and what it used where that is known.

    Both where the engine tells only the code that stands for a signal. ``lost``: the engine gave it up; the command
    itself did not fail. ``unstarted``: there was no command that could be started, which was seen only now.
    """

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    lost: bool = False
    unstarted: bool = False
    message: str = ""
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None

    @property
    def succeeded(self) -> bool:
        return self.code == 0


class Observation(NamedTuple):
    """What the engine says of one attempt now. ``exit`` is set once it has exited."""

    key: str
    handle: str
    phase: Phase
    exit: ExitStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """The attempts of this installation that the engine holds.

    One that began before ``as_of`` (monotonic seconds), and is not among them, is held no more.
    """

    attempts: Sequence[Observation]
    as_of: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of one stream, in the order it was read."""

    stream: Stream
    data: bytes


class LogPage(NamedTuple):
    """Output after a cursor. Pass ``cursor`` to read on; ``complete``: after these there never will be more."""

    chunks: Sequence[LogChunk]
    cursor: str
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an executor can do.

    ``survives_worker``: what it runs goes on without its worker and can be adopted. ``isolates``: a job cannot touch
    the host. ``launch_threads``: how many launches may be on their way at once; 0: a launch never waits.
    """

    survives_worker: bool
    isolates: bool
    launch_threads: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the engine answers, what it says of itself, and what it has in all, where it says so."""

    ok: bool
    message: str
    cpu_count: int | None = None
    memory_bytes: int | None = None


class Executor(ABC):
    """Runs attempts. Every method may be called from any thread, and may raise `Unavailable`."""

    capabilities: ClassVar[Capabilities]

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        """Return an executor with the ``OPTIONS`` of its alias.

        Raises TypeError for an option that it does not have, and ImproperlyConfigured for one that is wrong.
        """
        cls.check_options(options, settings)
        return cls(**options)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        """Raise what `from_settings` raises, and touch nothing: for a system check."""
        signature(cls).bind(**options)

    @abstractmethod
    def submit(self, spec: LaunchSpec) -> str:
        """Start the attempt, or find it started under its key; return its handle.

        Raises Rejected where it can never run.
        """

    @abstractmethod
    def observe(self) -> Observations:
        """Return every attempt of this installation that the engine holds, as far as it is known; never wait for it."""

    @abstractmethod
    def watch(self, timeout: float) -> bool:
        """Wait until something may have changed, at most ``timeout`` seconds; tell whether it has. Only a hint."""

    @abstractmethod
    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        """Return about ``limit`` bytes of output after the cursor ("" for the start); never wait for more.

        What comes before the cursor may be given up.
        """

    @abstractmethod
    def stop(self, handle: str, grace_seconds: float) -> None:
        """Ask the attempt to end, and kill it after the grace period. Returns at once; harmless when repeated.

        Where `submit` is still at it, it may be given up.
        """

    @abstractmethod
    def remove(self, handle: str, *, failed: bool = False) -> None:
        """Kill what still runs and forget the attempt. Harmless when it is gone already.

        One that ``failed`` may be kept for a while, for people to look at: then this is called again from time to time.
        """

    @abstractmethod
    def check(self) -> Health:
        """Tell whether attempts could be started now. Never raises."""

    def release(self, handle: str) -> None:  # noqa: B027  # nothing to do where attempts end with their worker
        """Follow an attempt no longer: it is another worker's now, and goes on. Never raises."""

    def heartbeat(self, seconds: float) -> None:  # noqa: B027  # not every engine needs it
        """Be told that the worker lives, and by when it will say so again."""

    def close(self) -> None:  # noqa: B027  # nor this
        """Let go of the engine. What does not survive its worker is killed; what is on its way is given up."""
