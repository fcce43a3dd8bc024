"""Try again what a database gave up since it waited in a circle with another transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections

from .triggers import dialect_for

T = TypeVar("T")
P = ParamSpec("P")

# The other transaction has gone on by then: to meet a second deadlock at once is rare.
_TRIES = 10
logger = logging.getLogger(__name__)


def retries_deadlocks(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function retried as `retry_deadlocks` does; its keyword argument ``using`` names the database."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return retry_deadlocks(lambda: function(*args, **kwargs), using=str(kwargs.get("using", DEFAULT_DB_ALIAS)))

    return call


def retry_deadlocks(work: Callable[[], T], *, using: str) -> T:
    """Do work, again if the database breaks a deadlock by ending its transaction.

    Within a transaction of the caller's that is the caller's to do: all that it did there is gone as well.
    """
    for _ in range(_TRIES - 1):
        try:
            return work()
        except OperationalError as error:
            connection = connections[using]
            # Without autocommit there is a transaction too, and it is nobody's but the caller's.
            if not (dialect_for(connection).is_deadlock(error) and connection.get_autocommit()):
                raise
            logger.warning("The database broke a deadlock, trying again: %s", error)
    return work()
