"""SQLite's triggers.

``RAISE`` accepts only a literal (expressions since 3.47), so there is one ``SELECT RAISE`` per source state. No SQL here
has a per cent sign: Django's schema editor treats it as a placeholder on some paths, and literally on others.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from ..graph import State
from .dialect import TABLE, VERSIONS, Dialect, GuardSpec, JournalSpec

_NOW = "strftime(replace('~Y-~m-~d ~H:~M:~f', '~', char(37)), 'now')"


class SQLiteDialect(Dialect):
    vendor = "sqlite"
    new_version = f"random() & {VERSIONS - 1}"
    exact_collation = "COLLATE BINARY"

    def create_guard(self, spec: GuardSpec) -> list[str]:
        return [self._update_guard(spec), self._key_guard(spec), self._insert_guard(spec)]

    def drop_guard(self, spec: GuardSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name + end)}" for end in ("", "_key", "_insert")]

    def create_journal(self, spec: JournalSpec) -> list[str]:
        q = self.quote
        made_here = f"(NEW.{q(spec.version)} IS NOT OLD.{q(spec.version)} AND NEW.{q(spec.at)} IS NOT NULL)"
        # A trigger cannot change NEW in SQLite: the row's marks are set by a second UPDATE, of other columns.
        return [
            f"CREATE TRIGGER {q(spec.name)} AFTER UPDATE OF {q(spec.column)} ON {TABLE} FOR EACH ROW "
            f"WHEN OLD.{q(spec.column)} IS NOT NEW.{q(spec.column)} BEGIN "
            f"INSERT INTO {q(spec.table)} ({q(spec.subject)}, {q(spec.source)}, {q(spec.target)}, "
            f'"at", "actor", "reason") VALUES (NEW.{q(spec.primary_key)}, OLD.{q(spec.column)}, NEW.{q(spec.column)}, '
            f"CASE WHEN {made_here} THEN NEW.{q(spec.at)} ELSE {_NOW} END, "
            f"CASE WHEN {made_here} THEN NEW.{q(spec.actor)} ELSE '' END, "
            f"CASE WHEN {made_here} THEN NEW.{q(spec.reason)} ELSE '' END); "
            f"UPDATE {TABLE} SET {q(spec.version)} = {self.new_version}, {q(spec.at)} = {_NOW}, "
            f"{q(spec.actor)} = '', {q(spec.reason)} = '' "
            f"WHERE {q(spec.primary_key)} = NEW.{q(spec.primary_key)} AND NOT {made_here}; END"
        ]

    def drop_journal(self, spec: JournalSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name)}"]

    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [self.unquote(table)]
            )
            return dict(cursor.fetchall())

    def writers(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        # The rename at the end of a rebuild reads the whole schema and fails if a trigger's table does not exist.
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name <> %s AND instr(sql, %s) > 0",
                [self.unquote(table), self.quote(table)],
            )
            return dict(cursor.fetchall())

    def literal(self, state: State) -> str:
        literal = super().literal(state)
        return "(" + literal.replace("%", "' || char(37) || '") + ")" if "%" in literal else literal

    def message(self, text: str) -> str:
        return super().literal(text.replace("%", "\N{FULLWIDTH PERCENT SIGN}"))

    def expected(self, statements: Sequence[str], table: str) -> dict[str, str]:
        texts = [statement.replace(TABLE, self.quote(table)) for statement in statements]
        return {text.split('"')[1]: text for text in texts}

    def _update_guard(self, spec: GuardSpec) -> str:
        column, graph = self.quote(spec.column), spec.graph
        old, new = (self.exact(f"{row}.{column}", graph) for row in ("OLD", "NEW"))
        refusals = "".join(
            f"SELECT RAISE(ABORT, {self.message(self._refusal(spec, state))}) WHERE {old} = {self.literal(state)}"
            f" AND {new} NOT IN ({self.literals((state, *graph.targets(state)))}); "
            for state in graph.states
        )
        known = self.literals(graph.states)
        return (
            f"CREATE TRIGGER {self.quote(spec.name)} BEFORE UPDATE OF {column} ON {TABLE} FOR EACH ROW "
            f"WHEN {old} IS NOT {new} AND NOT COALESCE({self._legal(spec)}, 0) BEGIN "
            f"{refusals}"
            f"SELECT RAISE(ABORT, {self.message(f'Invalid transition to a NULL status ({spec.name})')}) "
            f"WHERE {new} IS NULL; "
            f"SELECT RAISE(ABORT, {self.message(f'Invalid transition from an unknown status ({spec.name})')}) "
            f"WHERE {old} IS NULL OR {old} NOT IN ({known}); END"
        )

    def _refusal(self, spec: GuardSpec, state: str | int) -> str:
        return f"Invalid transition from {state}. {self.targets_text(spec.graph, state)} ({spec.name})"

    def _legal(self, spec: GuardSpec) -> str:
        column, graph = self.quote(spec.column), spec.graph
        old, new = (self.exact(f"{row}.{column}", graph) for row in ("OLD", "NEW"))
        cases = "".join(
            f" WHEN {self.literal(state)} THEN {new} IN ({self.literals(graph.targets(state))})"
            for state in graph.states
            if graph.targets(state)
        )
        # An OR of pairs would be equivalent, but would take a tenth of an UPDATE.
        return f"CASE {old}{cases} END" if cases else "0"

    def _key_guard(self, spec: GuardSpec) -> str:
        # UPDATE OR REPLACE to another row's key would give that row this one's status. No "OF": SET rowid = … changes an
        # integer key without naming it.
        key = self.quote(spec.primary_key)
        return (
            f"CREATE TRIGGER {self.quote(spec.name + '_key')} AFTER UPDATE ON {TABLE} FOR EACH ROW "
            f"WHEN OLD.{key} IS NOT NEW.{key} BEGIN SELECT RAISE(ABORT, "
            f"{self.message(f'The primary key of a row with a status cannot change ({spec.name})')}); END"
        )

    def _insert_guard(self, spec: GuardSpec) -> str:
        # INSERT OR REPLACE is not an UPDATE, and a trigger cannot distinguish it from a plain INSERT or an upsert. So an
        # INSERT with the key of an existing row must have that row's status.
        key, column = self.quote(spec.primary_key), self.exact(self.quote(spec.column), spec.graph)
        allowed = spec.graph.initial or spec.graph.states
        return (
            f"CREATE TRIGGER {self.quote(spec.name + '_insert')} BEFORE INSERT ON {TABLE} FOR EACH ROW BEGIN "
            f"SELECT RAISE(ABORT, "
            f"{self.message(f'Invalid status for a new row. Valid: {list(allowed)} ({spec.name})')}) "
            f"WHERE NEW.{column} IS NULL OR NEW.{column} NOT IN ({self.literals(allowed)}); "
            f"SELECT RAISE(ABORT, "
            f"{self.message(f'Invalid transition by INSERT: the row exists with another status ({spec.name})')}) "
            f"FROM {TABLE} WHERE {key} = NEW.{key} AND {column} IS NOT NEW.{column}; END"
        )
