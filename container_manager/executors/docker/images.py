"""Pull images through the daemon: one pull for all attempts that wait for an image, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from docker.auth import resolve_repository_name
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from ...jobs.package_log import package_logger
from ..base import DependencyUnavailable, ExecutorError, Rejected, Unavailable
from .daemon import Daemon
from .daemon_answers import Answer, Failed, Gone, Silent
from .logins import LoginProblem, Logins
from .options import DockerOptions
from .refusals import is_final_pull

# The pause before a pull is tried again doubles from the first to the longest. The daemon does not pass on when a
# registry that limits its clients would answer again.
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_NOT_FOUND = 404
logger = package_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiter:
    """An attempt that waits for an image. ``failing_since``: monotonic seconds; None: no try has failed meanwhile."""

    note: Callable[[str], None]
    done: Future[None] = field(default_factory=Future)
    failing_since: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Pull:
    """A pull, with its tries. It ends when nobody waits for it any more. Guarded by the lock of `Images`."""

    image: str
    platform: str
    waiters: dict[str, _Waiter] = field(default_factory=dict)
    answer: Answer | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Images:
    """Pulls images for attempts, by their keys. Any thread may call it, and no call waits for a pull."""

    def __init__(self, daemon: Daemon, options: DockerOptions, *, secrets_directory: str) -> None:
        self._daemon, self._options = daemon, options
        self._logins = Logins(options, secrets_directory=secrets_directory)
        self._lock = threading.Lock()
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._pulled: set[str] = set()
        self._closed = False

    def pull(self, image: str, key: str, *, note: Callable[[str], None], platform: str = "") -> Future[None]:
        """Have an image pulled for an attempt, and return what tells when it is there; ``note`` takes the steps.

        ``platform``: instead of the daemon's own.

        Its exception is Rejected: with the reason ``image`` where the registry refuses, and ``unavailable`` where the
        tries have failed for the options' time. Raises the former for what is no image's name.
        """
        _parts(image)
        wanted = (image, platform)
        with self._lock:
            if self._closed:
                raise Unavailable("This executor is closed.")
            pull = self._pulls.get(wanted)
            if pull is None:
                pull = self._pulls[wanted] = _Pull(image=image, platform=platform)
                name = f"container-manager-pull-{image}"
                threading.Thread(target=self._run, args=(pull,), name=name, daemon=True).start()
            if (waiter := pull.waiters.get(key)) is None:
                waiter = pull.waiters[key] = _Waiter(note=note)
                note(f"Waits for the image {image!r}.")
            return waiter.done

    def was_pulled(self, key: str) -> bool:
        """Return whether the image was pulled for this attempt, and `forget` was not called since."""
        with self._lock:
            return key in self._pulled

    def forget(self, key: str, *, why: ExecutorError) -> None:
        """End an attempt's wait with this error, if it waits, and drop what is remembered of it."""
        with self._lock:
            self._pulled.discard(key)
            waiting = [(pull, pull.waiters.pop(key)) for pull in [*self._pulls.values()] if key in pull.waiters]
            for pull, _ in waiting:
                self._end_unwanted(pull)
        for _, waiter in waiting:
            waiter.done.set_exception(why)

    def close(self) -> None:
        """Pull nothing any more."""
        with self._lock:
            self._closed = True
            waiters = [waiter for pull in self._pulls.values() for waiter in pull.waiters.values()]
            for pull in [*self._pulls.values()]:
                pull.waiters.clear()
                self._end_unwanted(pull)
        for waiter in waiters:
            waiter.done.set_exception(Unavailable("This executor is closed."))

    def _run(self, pull: _Pull) -> None:
        """Try a pull until it succeeds, is refused, or nobody waits for it (a thread of its own)."""
        pause = _FIRST_PAUSE_SECONDS
        while not pull.ended.is_set():
            error = self._result(pull)
            if pull.ended.is_set():
                return
            if error is None or isinstance(error, Rejected):
                self._end(pull, error)
                return
            seconds = self._note_failure(pull, error, pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            pull.ended.wait(seconds)

    def _result(self, pull: _Pull) -> ExecutorError | None:
        """Pull once; return the error: Rejected for a final one."""
        try:
            self._pull(pull)
        except ExecutorError as error:
            return error
        except Exception as error:
            # Of this pull alone: it would end one worker after another.
            logger.exception("The pull of %s failed", pull.image)
            return DependencyUnavailable(f"{type(error).__name__}: {error}")
        return None

    def _pull(self, pull: _Pull) -> None:
        registry, repository, tag = _parts(pull.image)
        problem, headers, begun = "", {}, False
        try:
            headers = self._logins.headers(registry)
        except LoginProblem as error:
            problem = f" It was asked without a login: {error}"
            self._note(pull, f"{error} The image is pulled without a login.")
        parameters = {"fromImage": repository, "tag": tag, **({"platform": pull.platform} if pull.platform else {})}
        silence = self._options.pull_stall_seconds
        try:
            with self._daemon.stream(
                "/images/create", parameters, method="POST", headers=headers, silence_seconds=silence
            ) as answer:
                self._hold(pull, answer)
                for line in answer.lines():
                    if "error" in line:
                        raise Failed(str(line["error"]))
                    begun = begun or _is_part(line)
                    if "status" in line and not line.get("progressDetail"):
                        self._note(pull, _step(line))
        except Silent as error:
            raise DependencyUnavailable(f"It made no progress for {silence:g} s.{problem}") from error
        except (Gone, Failed) as error:
            status = error.status if isinstance(error, Failed) else _NOT_FOUND
            text = f"{error}{problem}"
            # With its login it might have been let in.
            if not problem and is_final_pull(str(error), status=status, begun=begun):
                raise Rejected("image", f"The image {pull.image!r} cannot be pulled: {text}") from error
            raise DependencyUnavailable(text) from error

    def _hold(self, pull: _Pull, answer: Answer) -> None:
        """Keep the answer, so that `_end_unwanted` can interrupt it."""
        with self._lock:
            if pull.ended.is_set():
                raise Unavailable("Nobody waits for it any more.")
            pull.answer = answer

    def _note(self, pull: _Pull, text: str) -> None:
        with self._lock:
            waiters = [*pull.waiters.values()]
        for waiter in waiters:
            waiter.note(text)

    def _end(self, pull: _Pull, error: Rejected | None) -> None:
        with self._lock:
            pull.ended.set()
            self._drop(pull)
            waiters, pull.waiters = pull.waiters, {}
            if error is None:
                self._pulled |= waiters.keys()
        for waiter in waiters.values():
            if error is None:
                waiter.done.set_result(None)
            else:
                waiter.done.set_exception(error)

    def _drop(self, pull: _Pull) -> None:
        """Have the next attempt that needs the image begin another pull. The caller holds the lock."""
        wanted = (pull.image, pull.platform)
        if self._pulls.get(wanted) is pull:
            del self._pulls[wanted]

    def _end_unwanted(self, pull: _Pull) -> None:
        """End a pull that nobody waits for. The caller holds the lock."""
        if pull.waiters:
            return
        pull.ended.set()
        self._drop(pull)
        if pull.answer is not None:
            pull.answer.interrupt()

    def _note_failure(self, pull: _Pull, error: ExecutorError, pause: float) -> float:
        """Give up the attempts that have waited for long enough; return the pause before the next try."""
        now, limit = time.monotonic(), self._options.pull_retry_seconds
        with self._lock:
            for waiter in pull.waiters.values():
                waiter.failing_since = waiter.failing_since or now
            ends = {key: (waiter.failing_since or now) + limit for key, waiter in pull.waiters.items()}
            over = [pull.waiters.pop(key) for key, end in ends.items() if end <= now]
            pull.answer = None
            self._end_unwanted(pull)
            left = [*pull.waiters.values()]
            # The last try is at the end of the time.
            seconds = min([pause, *(end - now for end in ends.values() if end > now)])
        for waiter in over:
            message = f"The image {pull.image!r} could not be pulled in {limit:g} s of tries: {error}"
            waiter.done.set_exception(Rejected("unavailable", message))
        for waiter in left:
            waiter.note(f"The pull has failed, it is tried again in {seconds:.0f} s: {error}")
        return seconds


def _parts(image: str) -> tuple[str, str, str]:
    """Return an image's registry, its name with it, and its tag or digest."""
    repository, tag = parse_repository_tag(image)
    try:
        registry, _ = resolve_repository_name(repository)
    except DockerException as error:
        raise Rejected("image", f"{image!r} is no image's name: {error}") from error
    return registry, repository, tag or "latest"


def _is_part(line: Mapping[str, Any]) -> bool:
    """Return whether a line of a pull's answer is about a part of the image: then the registry has let it be had."""
    return bool(line.get("id")) and not str(line.get("status", "")).startswith("Pulling from ")


def _step(line: Mapping[str, Any]) -> str:
    return ": ".join(str(line[name]) for name in ("id", "status") if line.get(name))
