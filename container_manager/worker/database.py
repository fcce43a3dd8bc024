"""Work with a database that may be away for a while."""

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
    """One thread's connection, and when to try again where it is lost.

    ``idle_seconds``: how long the database lets a transaction of this worker sleep, where it can limit that.
    """

    def __init__(self, using: str, *, idle_seconds: float) -> None:
        self.using, self._idle_seconds = using, idle_seconds
        self.back = Timer(FIRST_RETRY_SECONDS)
        self._prepared = False

    @property
    def is_away(self) -> bool:
        return self.back.seconds > FIRST_RETRY_SECONDS

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Do something, or nothing while the database is away: the caller keeps what it has, and tries again later."""
        if self.is_away and not self.back.is_due():
            return None
        try:
            result = self.do(work)
        except AWAY as error:
            self.back = Timer(min(LAST_RETRY_SECONDS, max(2 * FIRST_RETRY_SECONDS, self.back.seconds * 2)))
            self.back.is_due()
            logger.warning("The database did not answer, trying again in %s s: %s", self.back.seconds, error)
            return None
        if self.is_away:
            self.back = Timer(FIRST_RETRY_SECONDS)
        return result

    def do(self, work: Callable[[], T]) -> T:
        """Do something; raise what the database raises, and connect anew the next time."""
        try:
            if not self._prepared:
                store.prepare_session(idle_seconds=self._idle_seconds, using=self.using)
                self._prepared = True
            return work()
        except AWAY:
            self.close()
            raise

    def answers(self) -> bool:
        """Tell whether the connection works, though what was asked of it did not."""
        connection = connections[self.using]
        return connection.connection is not None and connection.is_usable()

    def close(self) -> None:
        """Close this thread's connection."""
        connections[self.using].close()
        self._prepared = False
