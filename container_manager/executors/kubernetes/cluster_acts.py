"""What is done to the cluster beside launches: each act once at a time, in a few threads, until it need not be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ...jobs.package_log import package_logger
from ..base import ExecutorError, Unavailable
from .cluster_answers import Absent, NameTaken, Overloaded

_THREADS = 4
# Before an act that was refused, or came too late, is tried again.
_AGAIN_SECONDS = 5.0
logger = package_logger(__name__)


class ClusterActs:
    """Acts by the attempt and their name. Whoever wants one asks again and again, from what the cluster holds now."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="container-manager-acts")
        self._lock = threading.Lock()
        self._running: set[tuple[str, str]] = set()
        self._not_before: dict[tuple[str, str], float] = {}
        self._closed = False

    def begin(self, key: str, name: str, work: Callable[[], object]) -> None:
        """Begin an act, unless it is being done, or was done just now. No error of it is raised."""
        act = (key, name)
        with self._lock:
            if self._closed or act in self._running or time.monotonic() < self._not_before.get(act, 0.0):
                return
            self._running.add(act)
            self._pool.submit(self._do, act, work)

    def forget(self, key: str) -> None:
        """Drop what is remembered of an attempt."""
        with self._lock:
            self._not_before = {act: at for act, at in self._not_before.items() if act[0] != key}

    def close(self) -> None:
        """Begin nothing any more. What is being done may go on for as long as an answer may take."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _do(self, act: tuple[str, str], work: Callable[[], object]) -> None:
        pause = _AGAIN_SECONDS
        try:
            work()
        except Overloaded as error:
            pause = error.retry_after or _AGAIN_SECONDS
        except (Absent, NameTaken):
            # It is gone, or another one by now: the view will know.
            pass
        except Unavailable:
            pause = 1.0
        except ExecutorError as error:
            logger.warning("%s of %s failed: %s", act[1], act[0], error)
        except Exception:
            # Of this attempt alone: it would end one worker after another.
            logger.exception("%s of %s failed", act[1], act[0])
        finally:
            with self._lock:
                self._running.discard(act)
                self._not_before[act] = time.monotonic() + pause
