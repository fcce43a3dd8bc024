"""What a contender is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import psycopg


class Contender(ABC):
    """A queue that takes part in the drain.

    ``per_second`` is what it about drains with one worker: it decides how many jobs it is given, so that every
    contender's turn takes about as long.
    """

    name: str
    per_second: int

    @abstractmethod
    def prepare(self, folder: str) -> None:
        """Create the tables, once."""

    @abstractmethod
    def fill(self, connection: psycopg.Connection, count: int) -> None:
        """Leave exactly this many jobs in the tables, all waiting. The connection commits by itself."""

    @abstractmethod
    def unfinished(self, connection: psycopg.Connection) -> int:
        """Count the jobs that are not finished."""

    @abstractmethod
    def work(self, folder: str, ready: Callable[[], None]) -> None:
        """Connect, call ``ready``, which waits for the start, and run all there is."""
