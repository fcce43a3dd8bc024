"""Retry work that the database aborted because of a deadlock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections

from .triggers import dialect_for

T = TypeVar("T")
P = ParamSpec("P")

# One retry is almost always enough, since the other transaction has proceeded.
_TRIES = 10
logger = logging.getLogger(__name__)


def retries_deadlocks(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function with `retry_deadlocks`; its keyword argument ``using`` names the database."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return retry_deadlocks(lambda: function(*args, **kwargs), using=str(kwargs.get("using", DEFAULT_DB_ALIAS)))

    return call


def retry_deadlocks(work: Callable[[], T], *, using: str) -> T:
    """Do work, and repeat it if its transaction is the victim of a deadlock.

    Inside a transaction of the caller the error is raised: what the caller did there was rolled back too.
    """
    for _ in range(_TRIES - 1):
        try:
            return work()
        except OperationalError as error:
            connection = connections[using]
            # Without autocommit there is always a transaction, and it is the caller's.
            if not (dialect_for(connection).is_deadlock(error) and connection.get_autocommit()):
                raise
            logger.warning("The database broke a deadlock, trying again: %s", error)
    return work()
