"""PostgreSQL's triggers.

The legal pairs stand in the trigger's WHEN clause: a legal change never enters PL/pgSQL. The guard is a BEFORE
trigger, so that its text comes before that of a CHECK constraint. ENABLE ALWAYS keeps it under
``session_replication_role = replica``. The journal is written once for a whole statement, from its transition tables:
that costs a third of a trigger for each row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from .base import TABLE, VERSIONS, Dialect, GuardSpec, JournalSpec, sqlstate

# serialization_failure: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERIALIZATION_FAILURE = "40001"
_BEFORE, _AFTER = "rows_before", "rows_after"
# A session keeps the plan that suited its first statement: a nested loop is right for one row, and for ten thousand
# compares each with each.
_JOURNAL_SETTINGS = "SET enable_nestloop TO off"


class PostgreSQLDialect(Dialect):
    vendor = "postgresql"
    exact_collation = '::text COLLATE "C"'

    def create_guard(self, spec: GuardSpec) -> list[str]:
        column, key = self.quote(spec.column), self.quote(spec.primary_key)
        pairs = ", ".join(f"({self.literal(s)}, {self.literal(t)})" for s, t in spec.graph.pairs)
        old, new = (self.exact(f"{row}.{column}", spec.graph) for row in ("OLD", "NEW"))
        legal = f"({old}, {new}) IN ({pairs})" if pairs else "FALSE"
        allowed = self.literals(spec.graph.initial or spec.graph.states)
        update = (
            f"BEFORE UPDATE ON {TABLE} FOR EACH ROW WHEN (OLD.{key} IS DISTINCT FROM NEW.{key} OR "
            f"{old} IS DISTINCT FROM {new} AND NOT COALESCE({legal}, FALSE))"
        )
        insert = f"BEFORE INSERT ON {TABLE} FOR EACH ROW WHEN ({new} IS NULL OR {new} NOT IN ({allowed}))"
        return [
            self._function(spec.name, self._guard_body(spec)),
            *self._trigger(spec.name, update, function=spec.name),
            *self._trigger(spec.name + "_insert", insert, function=spec.name),
        ]

    def drop_guard(self, spec: GuardSpec) -> list[str]:
        return [*self._drop(spec.name + "_insert"), *self._drop(spec.name), self._drop_function(spec.name)]

    def create_journal(self, spec: JournalSpec) -> list[str]:
        q = self.quote
        changed = f"OLD.{q(spec.column)} IS DISTINCT FROM NEW.{q(spec.column)}"
        unmarked = f"(NEW.{q(spec.version)} IS NOT DISTINCT FROM OLD.{q(spec.version)} OR NEW.{q(spec.at)} IS NULL)"
        mark = (
            f"NEW.{q(spec.version)} := floor(random() * {VERSIONS}); NEW.{q(spec.at)} := clock_timestamp(); "
            f"NEW.{q(spec.actor)} := ''; NEW.{q(spec.reason)} := ''; RETURN NEW;"
        )
        record = (
            f"INSERT INTO {q(spec.table)} ({q(spec.subject)}, {q(spec.source)}, {q(spec.target)}, "
            f'"at", "actor", "reason") SELECT n.{q(spec.primary_key)}, o.{q(spec.column)}, n.{q(spec.column)}, '
            f"n.{q(spec.at)}, n.{q(spec.actor)}, n.{q(spec.reason)} "
            f"FROM {_AFTER} n JOIN {_BEFORE} o ON o.{q(spec.primary_key)} = n.{q(spec.primary_key)} "
            f"WHERE o.{q(spec.column)} IS DISTINCT FROM n.{q(spec.column)}; RETURN NULL;"
        )
        before = f"BEFORE UPDATE ON {TABLE} FOR EACH ROW WHEN ({changed} AND {unmarked})"
        after = f"AFTER UPDATE ON {TABLE} REFERENCING OLD TABLE AS {_BEFORE} NEW TABLE AS {_AFTER} FOR EACH STATEMENT"
        marker = spec.name + "_mark"
        return [
            self._function(marker, mark),
            *self._trigger(marker, before, function=marker),
            self._function(spec.name, record, _JOURNAL_SETTINGS),
            *self._trigger(spec.name, after, function=spec.name),
        ]

    def drop_journal(self, spec: JournalSpec) -> list[str]:
        names = (spec.name + "_mark", spec.name)
        return [sql for name in names for sql in (*self._drop(name), self._drop_function(name))]

    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT t.tgname, t.tgenabled::text, obj_description(t.oid, 'pg_trigger'), p.proname, p.prosrc "
                "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
                "WHERE t.tgrelid = to_regclass(%s) AND NOT t.tgisinternal",
                [self.quote(table)],
            )
            found: dict[str, str] = {}
            for trigger, enabled, mark, function, source in cursor.fetchall():
                found[trigger] = mark if enabled == "A" else "not ENABLE ALWAYS"
                found[f"function {function}"] = source
            return found

    def expected(self, statements: Sequence[str], table: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for statement in statements:
            name = statement.split('"')[1] if '"' in statement else ""
            if statement.startswith("CREATE OR REPLACE FUNCTION"):
                found[f"function {name}"] = statement.split("$guard$")[1]
            elif statement.startswith("COMMENT ON TRIGGER"):
                found[name] = statement.rsplit("'", 2)[1]
        return found

    def is_conflict(self, error: BaseException) -> bool:
        return bool(sqlstate(error) == _SERIALIZATION_FAILURE)

    def _guard_body(self, spec: GuardSpec) -> str:
        column, key = self.quote(spec.column), self.quote(spec.primary_key)
        cases = " ".join(
            f"WHEN {self.literal(state)} THEN {self.literal(self.targets_text(spec.graph, state))}"
            for state in spec.graph.states
        )
        initial = self.literal(f"Valid: {list(spec.graph.initial or spec.graph.states)}")
        return (
            "DECLARE refusal text; BEGIN "
            f"IF TG_OP = 'INSERT' THEN refusal := concat('Invalid status ', NEW.{column}, ' for a new row. ', {initial}); "
            f"ELSIF OLD.{key} IS DISTINCT FROM NEW.{key} THEN "
            "refusal := 'The primary key of a row with a status cannot change'; "
            f"ELSE refusal := concat('Invalid transition from ', OLD.{column}, ' to ', NEW.{column}, '. ', "
            f"CASE OLD.{column} {cases} END); END IF; "
            f"RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = {self.literal(spec.name)}, "
            "TABLE = TG_TABLE_NAME, MESSAGE = refusal;"
        )

    def _function(self, name: str, body: str, settings: str = "") -> str:
        text = body if body.startswith("DECLARE") else f"BEGIN {body}"
        return (
            f"CREATE OR REPLACE FUNCTION {self.quote(name)}() RETURNS trigger LANGUAGE plpgsql {settings} "
            f"AS $guard$ {text} END; $guard$"
        )

    def _trigger(self, name: str, clause: str, *, function: str) -> list[str]:
        # The catalogue shows a WHEN clause rewritten; the mark lets a check compare what was installed.
        mark = hashlib.sha256(clause.replace(TABLE, "").encode()).hexdigest()[:16]
        quoted = self.quote(name)
        return [
            f"CREATE TRIGGER {quoted} {clause} EXECUTE FUNCTION {self.quote(function)}()",
            f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER {quoted}",
            f"COMMENT ON TRIGGER {quoted} ON {TABLE} IS '{mark}'",
        ]

    def _drop(self, name: str) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(name)} ON {TABLE}"]

    def _drop_function(self, name: str) -> str:
        return f"DROP FUNCTION IF EXISTS {self.quote(name)}()"
