"""What each database must be told, as values, and what differs between databases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper

from ..graph import Graph, State

# Stands for the quoted table in SQL text, until the schema editor knows its name.
TABLE = "\x00table\x00"

# How many versions there are: one more still fits a 32-bit column.
VERSIONS = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSpec:
    """A guard to install: names are unquoted column names."""

    name: str
    primary_key: str
    column: str
    graph: Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSpec:
    """A journal trigger to install: names are unquoted table and column names.

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
    """The triggers' SQL for one database vendor. Stateless."""

    vendor: ClassVar[str]
    quote_mark: ClassVar[str] = '"'
    # Whether a plain SELECT may show less than an UPDATE of the same transaction has just met.
    reads_snapshot: ClassVar[bool] = False
    # Whether FOR UPDATE and UPDATE lock what they read of any index, in that index's order.
    locks_indexes: ClassVar[bool] = False
    exact_collation: ClassVar[str] = ""
    # A random version, for the reasons of `machine.new_version`.
    new_version: ClassVar[str]
    # How to compare a column, so that a row is found by its key and not by an index of this column.
    unindexed: ClassVar[str] = "%(expressions)s"

    def literal(self, state: State) -> str:
        return str(state) if isinstance(state, int) else "'" + state.replace("'", "''") + "'"

    def literals(self, states: Sequence[State]) -> str:
        return ", ".join(self.literal(state) for state in states)

    def quote(self, name: str) -> str:
        """Quote a name, unless its owner has: as Django does with a ``db_table``."""
        mark = self.quote_mark
        return name if name[0] == name[-1] == mark else mark + name.replace(mark, mark * 2) + mark

    def unquote(self, name: str) -> str:
        return name.strip(self.quote_mark)

    def exact(self, column: str, graph: Graph) -> str:
        """Return a column's value as the map compares it: a collation may hold other texts for equal."""
        return f"{column} {self.exact_collation}" if isinstance(graph.states[0], str) else column

    def targets_text(self, graph: Graph, state: State) -> str:
        targets = list(graph.targets(state))
        return f"Valid transitions: {targets}" + ("" if targets else f" ({state} is terminal)")

    @abstractmethod
    def create_guard(self, spec: GuardSpec) -> list[str]:
        """Return the statements that install the guard; `TABLE` stands for the table."""

    @abstractmethod
    def drop_guard(self, spec: GuardSpec) -> list[str]:
        """Return the statements that take it away; each is harmless where it is gone already."""

    @abstractmethod
    def create_journal(self, spec: JournalSpec) -> list[str]:
        """Return the statements that install the journal's trigger."""

    @abstractmethod
    def drop_journal(self, spec: JournalSpec) -> list[str]:
        """Return the statements that take it away."""

    @abstractmethod
    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        """Return what stands in the database for a table: trigger (or function) name → its comparable text."""

    @abstractmethod
    def expected(self, statements: Sequence[str], table: str) -> dict[str, str]:
        """Return what `installed` would give had just these statements been run."""

    def has_table(self, connection: BaseDatabaseWrapper, table: str) -> bool:
        return self.unquote(table) in connection.introspection.table_names()

    def writers(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        """Return the triggers of other tables that hinder a rebuild of this one: name → the statement that made it."""
        return {}

    def sweep(self, connection: BaseDatabaseWrapper) -> list[str]:
        """Drop what this package has made and no table uses any more; return the names."""
        return []

    def is_conflict(self, error: BaseException) -> bool:
        """Tell whether the database gave up this transaction for another one that wrote first."""
        return False

    def is_deadlock(self, error: BaseException) -> bool:
        """Tell whether the database ended this transaction since it waited in a circle with another."""
        return False


def sqlstate(error: BaseException) -> Any:
    """Return the SQLSTATE that a PostgreSQL driver's error carries, or None."""
    return getattr(error.__cause__, "sqlstate", None)
