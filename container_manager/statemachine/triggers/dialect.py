"""The base of the triggers' SQL: what to install, as values, and what each database must define."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper

from ..graph import Graph, State
from .time_zone import utc_offset

# The placeholder of the quoted table in SQL, until the schema editor knows its name.
TABLE = "\x00table\x00"

# The number of versions: they fit a signed 32-bit column.
VERSIONS = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSpec:
    """A guard to install; names are unquoted column names."""

    name: str
    primary_key: str
    column: str
    graph: Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSpec:
    """A journal trigger to install; names are unquoted table and column names.

    ``version``, ``at``, ``actor`` and ``reason`` are columns of the guarded table; the rest are the journal's.
    """

    name: str
    primary_key: str
    column: str
    version: str
    at: str
    actor: str
    reason: str
    table: str
    subject: str
    source: str
    target: str


class Dialect(ABC):
    """The triggers' SQL for one database vendor and the time zone in which Django stores times there."""

    vendor: ClassVar[str]
    quote_mark: ClassVar[str] = '"'
    # Whether a column of times is absolute, whatever the zone of the connection.
    stores_absolute_times: ClassVar[bool] = False
    # Whether a plain SELECT may show an older row than an UPDATE of the same transaction sees.
    reads_snapshot: ClassVar[bool] = False
    # Whether FOR UPDATE and UPDATE lock the index entries that they read, in that index's order.
    locks_indexes: ClassVar[bool] = False
    exact_collation: ClassVar[str] = ""
    # A random version, for the reasons of `machine.new_version`.
    new_version: ClassVar[str]
    # Compares a column so that no index of it is used: the row is then found by its key.
    unindexed: ClassVar[str] = "%(expressions)s"

    def __init__(self, time_zone: str | None) -> None:
        self._time_zone = time_zone

    @cached_property
    def utc_offset(self) -> int:
        """How many seconds stored times are ahead of UTC.

        Raises NotSupportedError if they are in a zone whose offset changes.
        """
        return 0 if self.stores_absolute_times else utc_offset(self._time_zone)

    def literal(self, state: State) -> str:
        return str(state) if isinstance(state, int) else "'" + state.replace("'", "''") + "'"

    def literals(self, states: Sequence[State]) -> str:
        return ", ".join(self.literal(state) for state in states)

    def quote(self, name: str) -> str:
        """Quote a name, unless it is quoted, as Django does with a ``db_table``."""
        mark = self.quote_mark
        return name if name[0] == name[-1] == mark else mark + name.replace(mark, mark * 2) + mark

    def quoted(self, spec: JournalSpec) -> dict[str, str]:
        """Return a journal's names, quoted, for a template."""
        return {field.name: self.quote(getattr(spec, field.name)) for field in fields(spec)}

    def unquote(self, name: str) -> str:
        return name.strip(self.quote_mark)

    def exact(self, column: str, graph: Graph) -> str:
        """Return a column compared byte by byte: its collation may treat different strings as equal."""
        return f"{column} {self.exact_collation}" if isinstance(graph.states[0], str) else column

    def targets_text(self, graph: Graph, state: State) -> str:
        targets = list(graph.targets(state))
        return f"Valid transitions: {targets}" + ("" if targets else f" ({state} is terminal)")

    @property
    @abstractmethod
    def now(self) -> str:
        """SQL for the present time, as Django stores it. Raises NotSupportedError as `utc_offset` does."""

    @abstractmethod
    def create_guard(self, spec: GuardSpec) -> list[str]:
        """Return the statements that install the guard; `TABLE` stands for the table."""

    @abstractmethod
    def drop_guard(self, spec: GuardSpec) -> list[str]:
        """Return the statements that drop it; each does nothing if it does not exist."""

    @abstractmethod
    def create_journal(self, spec: JournalSpec) -> list[str]:
        """Return the statements that install the journal's trigger."""

    @abstractmethod
    def drop_journal(self, spec: JournalSpec) -> list[str]:
        """Return the statements that drop it, likewise."""

    @abstractmethod
    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        """Return a table's triggers (and functions): name → text to compare with `expected`."""

    @abstractmethod
    def expected(self, statements: Sequence[str], table: str) -> dict[str, str]:
        """Return what `installed` returns after these statements."""

    def has_table(self, connection: BaseDatabaseWrapper, table: str) -> bool:
        return self.unquote(table) in connection.introspection.table_names()

    def columns(self, connection: BaseDatabaseWrapper, table: str) -> set[str]:
        """Return the names of a table's columns."""
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {self.quote(table)} WHERE 1 = 0")
            return {column[0] for column in cursor.description}

    def creation_refused(self, connection: BaseDatabaseWrapper) -> str:
        """Return why this user cannot create triggers and what to do; "" if nothing is known to prevent it."""
        return ""

    def writers(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        """Return the triggers of other tables that prevent a rebuild of this one: name → CREATE statement."""
        return {}

    def sweep(self, connection: BaseDatabaseWrapper) -> list[str]:
        """Drop what this package created and no table uses any more; return the names."""
        return []

    @abstractmethod
    def restoring(
        self, connection: BaseDatabaseWrapper, guards: Sequence[tuple[str, GuardSpec]]
    ) -> AbstractContextManager[None]:
        """Let this connection insert rows in any state that the map has, within an open transaction.

        ``guards``: tables and their guards with initial states.
        """

    def is_conflict(self, error: BaseException) -> bool:
        """Tell whether the database aborted this transaction because another one wrote first."""
        return False

    def is_deadlock(self, error: BaseException) -> bool:
        """Tell whether the database aborted this transaction as the victim of a deadlock."""
        return False


def sqlstate(error: BaseException) -> Any:
    """Return the SQLSTATE that a PostgreSQL driver's error carries, or None."""
    return getattr(error.__cause__, "sqlstate", None)
