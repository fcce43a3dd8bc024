"""SQLite's triggers.

``RAISE`` accepts only a literal (expressions since 3.47), so there is one ``SELECT RAISE`` per source state. No SQL here
has a per cent sign: Django's schema editor treats it as a placeholder on some paths, and literally on others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from django.db.backends.base.base import BaseDatabaseWrapper

from ..graph import Graph, State
from .dialect import TABLE, VERSIONS, Dialect, GuardSpec, JournalSpec

# Of the names of the guard's triggers, in the order of the templates.
_GUARD_SUFFIXES = ("", "_key", "_insert")
_UPDATE_GUARD = (
    "CREATE TRIGGER {name} BEFORE UPDATE OF {column} ON {table} FOR EACH ROW "
    "WHEN {old} IS NOT {new} AND NOT COALESCE({legal}, 0) BEGIN "
    "{refusals}"
    "SELECT RAISE(ABORT, {to_null}) WHERE {new} IS NULL; "
    "SELECT RAISE(ABORT, {from_unknown}) WHERE {old} IS NULL OR {old} NOT IN ({known}); END"
)
_REFUSAL = "SELECT RAISE(ABORT, {message}) WHERE {old} = {state} AND {new} NOT IN ({allowed}); "
# UPDATE OR REPLACE to another row's key would give that row this one's status. No "OF": SET rowid = … changes an integer
# key without naming it.
_KEY_GUARD = (
    "CREATE TRIGGER {name} AFTER UPDATE ON {table} FOR EACH ROW "
    "WHEN OLD.{key} IS NOT NEW.{key} BEGIN SELECT RAISE(ABORT, {key_changed}); END"
)
# INSERT OR REPLACE is not an UPDATE, and a trigger cannot distinguish it from a plain INSERT or an upsert. So an INSERT
# with the key of an existing row must have that row's status.
_INSERT_GUARD = (
    "CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW BEGIN "
    "SELECT RAISE(ABORT, {not_initial}) WHERE {inserted} IS NULL OR {inserted} NOT IN ({initial}); "
    "SELECT RAISE(ABORT, {replaced}) FROM {table} WHERE {key} = NEW.{key} AND {present} IS NOT {inserted}; END"
)
# A trigger cannot change NEW in SQLite: the row's marks are set by a second UPDATE, of other columns.
_JOURNAL = (
    "CREATE TRIGGER {name} AFTER UPDATE OF {column} ON {guarded} FOR EACH ROW "
    "WHEN OLD.{column} IS NOT NEW.{column} BEGIN "
    'INSERT INTO {table} ({subject}, {source}, {target}, "at", "actor", "reason") '
    "VALUES (NEW.{primary_key}, OLD.{column}, NEW.{column}, "
    "CASE WHEN {marked} THEN NEW.{at} ELSE {now} END, "
    "CASE WHEN {marked} THEN NEW.{actor} ELSE '' END, "
    "CASE WHEN {marked} THEN NEW.{reason} ELSE '' END); "
    "UPDATE {guarded} SET {version} = {new_version}, {at} = {now}, {actor} = '', {reason} = '' "
    "WHERE {primary_key} = NEW.{primary_key} AND NOT {marked}; END"
)
_MARKED = "(NEW.{version} IS NOT OLD.{version} AND NEW.{at} IS NOT NULL)"


class SQLiteDialect(Dialect):
    vendor = "sqlite"
    new_version = f"random() & {VERSIONS - 1}"
    exact_collation = "COLLATE BINARY"

    @property
    def now(self) -> str:
        return self.time("'now'")

    def time(self, moment: str) -> str:
        """Return the SQL of a moment, the arguments of a date function, as Django writes it.

        Times are compared as texts there: without a fraction where that is 0, else with six digits.
        """
        text = f"strftime(replace('~Y-~m-~d ~H:~M:~f', '~', char(37)), {moment}{self.shift})"
        return f"replace({text} || '000', '.000000', '')"

    @property
    def shift(self) -> str:
        """The last argument of a date function, which changes UTC to the zone of stored times."""
        return f", '{self.utc_offset} seconds'" if self.utc_offset else ""

    def create_guard(self, spec: GuardSpec) -> list[str]:
        graph, column = spec.graph, self.quote(spec.column)
        old, new = (self.exact(f"{row}.{column}", graph) for row in ("OLD", "NEW"))
        initial = graph.initial or graph.states

        def message(text: str) -> str:
            return self.message(f"{text} ({spec.name})")

        parts = {
            "table": TABLE,
            "column": column,
            "key": self.quote(spec.primary_key),
            "old": old,
            "new": new,
            "legal": self._legal(graph, old, new),
            "refusals": "".join(
                _REFUSAL.format(
                    message=message(f"Invalid transition from {state}. {self.targets_text(graph, state)}"),
                    old=old,
                    new=new,
                    state=self.literal(state),
                    allowed=self.literals((state, *graph.targets(state))),
                )
                for state in graph.states
            ),
            "known": self.literals(graph.states),
            "to_null": message("Invalid transition to a NULL status"),
            "from_unknown": message("Invalid transition from an unknown status"),
            "key_changed": message("The primary key of a row with a status cannot change"),
            "present": self.exact(column, graph),
            "inserted": "NEW." + self.exact(column, graph),
            "initial": self.literals(initial),
            "not_initial": message(f"Invalid status for a new row. Valid: {list(initial)}"),
            "replaced": message("Invalid transition by INSERT: the row exists with another status"),
        }
        templates = (_UPDATE_GUARD, _KEY_GUARD, _INSERT_GUARD)
        return [
            template.format(name=self.quote(spec.name + suffix), **parts)
            for template, suffix in zip(templates, _GUARD_SUFFIXES, strict=True)
        ]

    def drop_guard(self, spec: GuardSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name + end)}" for end in _GUARD_SUFFIXES]

    def create_journal(self, spec: JournalSpec) -> list[str]:
        names = self.quoted(spec)
        marked = _MARKED.format(**names)
        return [_JOURNAL.format(guarded=TABLE, marked=marked, now=self.now, new_version=self.new_version, **names)]

    def drop_journal(self, spec: JournalSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name)}"]

    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [self.unquote(table)]
            )
            return dict(cursor.fetchall())

    @contextmanager
    def restoring(self, connection: BaseDatabaseWrapper, guards: Sequence[tuple[str, GuardSpec]]) -> Iterator[None]:
        # SQLite has no variable that a trigger could read. But its DDL is transactional and there is one writer: no other
        # connection sees the table with another trigger, and a rollback brings the trigger back.
        replaced: dict[str, str] = {}
        with connection.cursor() as cursor:
            for table, guard in guards:
                name = guard.name + "_insert"
                if judging := self.installed(connection, table).get(name):
                    anything = replace(guard, graph=replace(guard.graph, initial=None))
                    cursor.execute(f"DROP TRIGGER {self.quote(name)}")
                    cursor.execute(self.create_guard(anything)[-1].replace(TABLE, self.quote(table)))
                    replaced[name] = judging
        yield
        if not connection.needs_rollback:
            with connection.cursor() as cursor:
                for name, judging in replaced.items():
                    cursor.execute(f"DROP TRIGGER {self.quote(name)}")
                    cursor.execute(judging)

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

    def _legal(self, graph: Graph, old: str, new: str) -> str:
        """Return the condition that the map has an edge."""
        cases = "".join(
            f" WHEN {self.literal(state)} THEN {new} IN ({self.literals(graph.targets(state))})"
            for state in graph.states
            if graph.targets(state)
        )
        # An OR of pairs would be equivalent, but would take a tenth of an UPDATE.
        return f"CASE {old}{cases} END" if cases else "0"
