"""Keep one bad row or one locked row from holding up the others of its batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from django.db import OperationalError, connections

from .sql import store_sql

T = TypeVar("T")
R = TypeVar("R")
# Is told of what the database refuses by itself, and why.
OnRefused = Callable[[T, Exception], None]


def is_refusal(error: Exception, *, using: str) -> bool:
    """Tell whether an error is about a value or a row, and not about the database or its tables."""
    return store_sql(connections[using]).is_refusal(error)


def isolated(
    work: Callable[[Sequence[T]], Collection[R]], batch: Sequence[T], *, refused: OnRefused[T] | None, using: str
) -> list[R]:
    """Do work on a batch; if the database refuses it because of a row or a value, do it on each half.

    So few statements find one bad row of many. What is refused alone goes to ``refused``, and the others are done; if
    that is None, the error is raised at once. All other errors are raised.
    """
    try:
        return [*work(batch)]
    except Exception as error:
        if refused is None or not is_refusal(error, using=using):
            raise
        if len(batch) == 1:
            refused(batch[0], error)
            return []
    middle = len(batch) // 2
    halves = (batch[:middle], batch[middle:])
    return [result for half in halves for result in isolated(work, half, refused=refused, using=using)]


def skipping_locked(work: Callable[[bool], R], *, skip: bool, using: str) -> R:
    """Do work; if it has waited for a locked row for too long, do it again, and skip locked rows.

    ``work`` is called with whether to skip them. To skip them at once would cost time when there are none; ``skip``: do
    so since there probably are some.
    """
    if skip:
        return work(True)
    connection = connections[using]
    try:
        return work(False)
    except OperationalError as error:
        if connection.in_atomic_block or not store_sql(connection).is_lock_timeout(error):
            raise
    return work(True)
