"""Note when a thread of a worker, or of its executors, ends by an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from ..jobs.package_log import package_logger

# How the names of these threads begin.
PREFIX = "container-manager-"
# What to call, for each worker of this process. Not one of each thread's: executors start threads of their own.
_WORKERS: list[Callable[[str], None]] = []
_LOCK = threading.Lock()
logger = package_logger(__name__)


@contextmanager
def supervised(failed: Callable[[str], None]) -> Iterator[None]:
    """Call ``failed`` with the name of each thread that ends by an error meanwhile, whichever worker's it is."""
    with _LOCK:
        if not _WORKERS:
            _Hook.install()
        _WORKERS.append(failed)
    try:
        yield
    finally:
        with _LOCK:
            _WORKERS.remove(failed)
            if not _WORKERS:
                _Hook.remove()


def fail_thread(error: BaseException) -> None:
    """Treat an error as one that ends this thread, where something else would catch it."""
    kind: type[BaseException] = type(error)
    trace: TracebackType | None = error.__traceback__
    threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))


class _Hook:
    """What Python calls for an error that ends a thread; without it, SystemExit would end one without a word."""

    before = threading.excepthook

    @classmethod
    def install(cls) -> None:
        cls.before, threading.excepthook = threading.excepthook, cls.note

    @classmethod
    def remove(cls) -> None:
        threading.excepthook = cls.before

    @classmethod
    def note(cls, args: threading.ExceptHookArgs, /) -> None:
        name = args.thread.name if args.thread is not None else ""
        if not name.startswith(PREFIX) or args.exc_value is None:
            cls.before(args)
            return
        logger.critical("The thread %s ended by an error, so the worker ends", name, exc_info=args.exc_value)
        for failed in list(_WORKERS):
            failed(name)
