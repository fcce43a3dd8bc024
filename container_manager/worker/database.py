"""Work with a database that may be unavailable for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connections

from .. import store
from .timers import Timer

T = TypeVar("T")
AWAY = (OperationalError, InterfaceError, InternalError)
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 2.0
logger = logging.getLogger(__name__)


class Database:
    """One thread's connection, with a backoff while the database is away.

    ``idle_seconds``: how long a transaction of this worker may be idle, on databases that can limit that.
    """

    def __init__(self, using: str, *, idle_seconds: float) -> None:
        self.using, self._idle_seconds = using, idle_seconds
        self.back = Timer(FIRST_RETRY_SECONDS)
        self._prepared = False
        # Whether it answered when it last failed.
        self._answered = False

    @property
    def in_callers_transaction(self) -> bool:
        """Whether the worker runs in a transaction, as in a test: ask only where its own code has begun none."""
        return connections[self.using].in_atomic_block

    @property
    def is_away(self) -> bool:
        """Whether the last attempt failed."""
        return self.back.seconds > FIRST_RETRY_SECONDS

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Do some work and return its result; None if the database is away, or the backoff has not passed.

        The caller keeps what it has, and tries again later.
        """
        if self.is_away and not self.back.take_due():
            return None
        try:
            result = self.do(work)
        except AWAY as error:
            if self.in_callers_transaction:
                raise
            self.back = Timer(min(LAST_RETRY_SECONDS, max(2 * FIRST_RETRY_SECONDS, self.back.seconds * 2)))
            self.back.restart()
            what = "refused what it was asked" if self._answered else "did not answer"
            logger.warning("The database %s, trying again in %s s: %s", what, self.back.seconds, error)
            return None
        if self.is_away:
            self.back = Timer(FIRST_RETRY_SECONDS)
        return result

    def do(self, work: Callable[[], T]) -> T:
        """Do some work and return its result; raise what the database raises, and connect anew the next time.

        In a transaction of the worker's caller, neither is the session ours to prepare, nor the connection to replace.
        """
        if self.in_callers_transaction:
            return work()
        try:
            self.prepare()
            return work()
        except AWAY:
            self._answered = answers(self.using)
            self.close()
            raise

    def prepare(self) -> None:
        """Prepare this thread's connection, if it is not."""
        if not self._prepared and not self.in_callers_transaction:
            store.prepare_session(idle_seconds=self._idle_seconds, using=self.using)
            self._prepared = True

    def close(self) -> None:
        """Close this thread's connection, unless it is in a transaction of the worker's caller."""
        if not self.in_callers_transaction:
            store.end_session(using=self.using)
            self._prepared = False


def answers(using: str) -> bool:
    """Tell whether this thread's connection works, after a statement on it has failed."""
    connection = connections[using]
    return connection.connection is not None and connection.is_usable()
