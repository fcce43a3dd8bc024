"""PostgreSQL's triggers.

All conditions are in the functions. PostgreSQL parses a trigger's WHEN clause for each statement, which takes longer
than a call of PL/pgSQL (measured: without it an UPDATE of one row takes a quarter less), and no column in it could change
its type. The guard is a BEFORE trigger, so that its message comes before that of a CHECK constraint. ENABLE ALWAYS keeps
the triggers active under ``session_replication_role = replica``. The journal is written once per statement, from its
transition tables, which takes a third of the time of a trigger per row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

from .dialect import TABLE, VERSIONS, Dialect, GuardSpec, JournalSpec, sqlstate

# serialization_failure and deadlock_detected: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERIALIZATION_FAILURE, _DEADLOCK_DETECTED = "40001", "40P01"
# A setting of the session or, with SET LOCAL, of the transaction.
RESTORING = "container_manager.restoring"
# The comment that marks this package's functions.
_MADE_HERE = "container_manager.statemachine"
# pg_trigger.tgtype: ROW is 1, BEFORE 2, INSERT 4, UPDATE 16 (src/include/catalog/pg_trigger.h).
_EVENTS = {7: "BEFORE INSERT", 19: "BEFORE UPDATE", 16: "AFTER UPDATE"}
_FUNCTION = re.compile(r'CREATE OR REPLACE FUNCTION "([^"]+)".+?\$guard\$(.+)\$guard\$', re.DOTALL)
_TRIGGER = re.compile('CREATE TRIGGER "([^"]+)" ([A-Z]+ [A-Z]+) ON .+ EXECUTE FUNCTION "([^"]+)"', re.DOTALL)
# Separates schema and table in a quoted name.
_SCHEMA_END = '"."'
_SCOPE = "REFERENCING OLD TABLE AS rows_before NEW TABLE AS rows_after FOR EACH STATEMENT"

_GUARD = (
    "DECLARE refusal text; BEGIN "
    "IF TG_OP = 'INSERT' THEN IF {new} IN ({allowed}){or_restored} THEN RETURN NEW; END IF; "
    "refusal := concat('Invalid status ', NEW.{column}, ' for a new row. ', {valid}); "
    "ELSIF OLD.{key} IS DISTINCT FROM NEW.{key} THEN "
    "refusal := 'The primary key of a row with a status cannot change'; "
    "ELSIF {old} IS NOT DISTINCT FROM {new}{or_legal} THEN RETURN NEW; "
    "ELSE refusal := concat('Invalid transition from ', OLD.{column}, ' to ', NEW.{column}, '. ', "
    "CASE {old} {cases} END); END IF; "
    "RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = {name}, "
    "TABLE = TG_TABLE_NAME, MESSAGE = refusal; END;"
)
# A restore inserts rows that are long past their initial state: it says so itself, or it is the initial copy of logical
# replication, whose role must not be "origin".
_OR_RESTORED = (
    " OR ({new} IN ({known}) AND (current_setting('{restoring}', true) = 'on' "
    "OR current_setting('session_replication_role') = 'replica'))"
)
_MARK = (
    "BEGIN IF OLD.{column} IS DISTINCT FROM NEW.{column} "
    "AND (NEW.{version} IS NOT DISTINCT FROM OLD.{version} OR NEW.{at} IS NULL) THEN "
    "NEW.{version} := {new_version}; NEW.{at} := {now}; "
    "NEW.{actor} := ''; NEW.{reason} := ''; END IF; RETURN NEW; END;"
)
# FULL JOIN, although every row has its partner: a session keeps the plan of its first statement, and a nested loop, best
# for one row, would compare ten thousand with each other. It cannot do a FULL JOIN.
_RECORD = (
    "BEGIN {refuse_hidden}"
    'INSERT INTO {table} ({subject}, {source}, {target}, "at", "actor", "reason") '
    "SELECT n.{primary_key}, o.{column}, n.{column}, n.{at}, n.{actor}, n.{reason} "
    "FROM rows_after n FULL JOIN rows_before o ON o.{primary_key} = n.{primary_key} "
    "WHERE o.{column} IS DISTINCT FROM n.{column}; RETURN NULL; END;"
)
_REFUSE_HIDDEN = (
    "IF pg_my_temp_schema() <> 0 AND to_regclass({temporary}) IS NOT NULL THEN RAISE EXCEPTION "
    "USING ERRCODE = 'check_violation', MESSAGE = 'A temporary table hides the journal'; END IF; "
)


class PostgreSQLDialect(Dialect):
    vendor = "postgresql"
    stores_absolute_times = True
    now = "clock_timestamp()"
    new_version = f"floor(random() * {VERSIONS})"
    exact_collation = '::text COLLATE "C"'

    def create_guard(self, spec: GuardSpec) -> list[str]:
        return [
            *self._function(spec.name, self._guard_body(spec)),
            *self._trigger(spec.name, "BEFORE UPDATE", function=spec.name),
            *self._trigger(spec.name + "_insert", "BEFORE INSERT", function=spec.name),
        ]

    def drop_guard(self, spec: GuardSpec) -> list[str]:
        return [*self._drop(spec.name + "_insert"), *self._drop(spec.name), self._drop_function(spec.name)]

    def create_journal(self, spec: JournalSpec) -> list[str]:
        names, marker = self.quoted(spec), spec.name + "_mark"
        temporary = self.literal(f"pg_temp.{names['table']}")
        # A name with its schema cannot be hidden.
        refuse_hidden = "" if _SCHEMA_END in spec.table else _REFUSE_HIDDEN.format(temporary=temporary)
        return [
            *self._function(marker, _MARK.format(now=self.now, new_version=self.new_version, **names)),
            *self._trigger(marker, "BEFORE UPDATE", function=marker),
            *self._function(spec.name, _RECORD.format(refuse_hidden=refuse_hidden, **names)),
            *self._trigger(spec.name, "AFTER UPDATE", function=spec.name, scope=_SCOPE),
        ]

    def drop_journal(self, spec: JournalSpec) -> list[str]:
        names = (spec.name + "_mark", spec.name)
        return [sql for name in names for sql in (*self._drop(name), self._drop_function(name))]

    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT t.tgname, t.tgtype, t.tgenabled::text, t.tgqual IS NULL AND t.tgattr = ''::int2vector, "
                "p.proname, p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
                "WHERE t.tgrelid = to_regclass(%s) AND NOT t.tgisinternal",
                [self.quote(table)],
            )
            found: dict[str, str] = {}
            for trigger, kind, enabled, unconditional, function, source in cursor.fetchall():
                if enabled not in ("A", "O"):
                    continue  # disabled, in ordinary sessions at least
                always = enabled == "A" and unconditional
                found[trigger] = f"{_EVENTS.get(kind)} {function}" if always else "not always"
                found[f"function {function}"] = source
            return found

    def expected(self, statements: Sequence[str], table: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for statement in statements:
            if trigger := _TRIGGER.match(statement):
                name, event, function = trigger.groups()
                found[name] = f"{event} {function}"
            elif made := _FUNCTION.match(statement):
                name, source = made.groups()
                found[f"function {name}"] = source
        return found

    def has_table(self, connection: BaseDatabaseWrapper, table: str) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [self.quote(table)])
            return bool(cursor.fetchone()[0])

    def sweep(self, connection: BaseDatabaseWrapper) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT proname FROM pg_proc p WHERE obj_description(oid, 'pg_proc') = %s "
                "AND pronamespace = current_schema()::regnamespace AND pg_has_role(proowner, 'USAGE') "
                "AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = p.oid)",
                [_MADE_HERE],
            )
            names = [name for (name,) in cursor.fetchall()]
            for name in names:
                cursor.execute(self._drop_function(name))
        return names

    @contextmanager
    def restoring(self, connection: BaseDatabaseWrapper, guards: Sequence[tuple[str, GuardSpec]]) -> Iterator[None]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting(%s, true)", [RESTORING])
            before = cursor.fetchone()[0] or ""
            # Local to the transaction: a rollback takes it back.
            cursor.execute("SELECT set_config(%s, 'on', true)", [RESTORING])
        yield
        if not connection.needs_rollback:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config(%s, %s, true)", [RESTORING, before])

    def is_conflict(self, error: BaseException) -> bool:
        return bool(sqlstate(error) == _SERIALIZATION_FAILURE)

    def is_deadlock(self, error: BaseException) -> bool:
        return bool(sqlstate(error) == _DEADLOCK_DETECTED)

    def _guard_body(self, spec: GuardSpec) -> str:
        column = self.quote(spec.column)
        pairs = ", ".join(f"({self.literal(s)}, {self.literal(t)})" for s, t in spec.graph.pairs)
        old, new = (self.exact(f"{row}.{column}", spec.graph) for row in ("OLD", "NEW"))
        allowed = spec.graph.initial or spec.graph.states
        return _GUARD.format(
            name=self.literal(spec.name),
            column=column,
            key=self.quote(spec.primary_key),
            old=old,
            new=new,
            or_legal=f" OR ({old}, {new}) IN ({pairs})" if pairs else "",
            allowed=self.literals(allowed),
            or_restored=""
            if spec.graph.initial is None
            else _OR_RESTORED.format(new=new, known=self.literals(spec.graph.states), restoring=RESTORING),
            valid=self.literal(f"Valid: {list(allowed)}"),
            cases=" ".join(
                f"WHEN {self.literal(state)} THEN {self.literal(self.targets_text(spec.graph, state))}"
                for state in spec.graph.states
            ),
        )

    def _function(self, name: str, body: str) -> list[str]:
        return [
            f"CREATE OR REPLACE FUNCTION {self.quote(name)}() RETURNS trigger LANGUAGE plpgsql "
            f"AS $guard$ {body} $guard$",
            f"COMMENT ON FUNCTION {self.quote(name)}() IS {self.literal(_MADE_HERE)}",
        ]

    def _trigger(self, name: str, event: str, *, function: str, scope: str = "FOR EACH ROW") -> list[str]:
        return [
            f"CREATE TRIGGER {self.quote(name)} {event} ON {TABLE} {scope} EXECUTE FUNCTION {self.quote(function)}()",
            f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER {self.quote(name)}",
        ]

    def _drop(self, name: str) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(name)} ON {TABLE}"]

    def _drop_function(self, name: str) -> str:
        return f"DROP FUNCTION IF EXISTS {self.quote(name)}()"
