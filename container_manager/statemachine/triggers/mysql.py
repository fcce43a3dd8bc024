"""MariaDB's and MySQL's triggers.

Comparisons are binary, since the usual collations treat 'QUEUED ' and 'queued' as equal. REPLACE is a DELETE and an
INSERT; the delete trigger recognises it by the key that the same statement is inserting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from ..graph import Graph, State
from .dialect import TABLE, VERSIONS, Dialect, GuardSpec, JournalSpec

# ER_CONSTRAINT_FAILED, which Django's backend maps to IntegrityError.
_SIGNAL = "SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 4025, MESSAGE_TEXT = refusal;"
# A variable of the session; 1: its INSERTs are a restore's.
RESTORING = "@container_manager_restoring"
# The longest message of a signal on MariaDB.
_LONGEST = 512
_DECLARE = f"DECLARE refusal VARCHAR({_LONGEST}) CHARACTER SET utf8mb4; "
# ER_CHECKREAD: under innodb_snapshot_isolation, the row changed since this transaction's snapshot.
_CHANGED_SINCE_SNAPSHOT = 1020
# ER_LOCK_DEADLOCK, ER_BINLOG_CREATE_ROUTINE_NEED_SUPER, ER_TABLEACCESS_DENIED_ERROR:
# https://mariadb.com/kb/en/mariadb-error-codes/
_DEADLOCK, _BINARY_LOGGING, _DENIED = 1213, 1419, 1142

# Rights are looked at before the table is looked for, so this creates nothing, whatever it is answered.
_PROBE = "CREATE TRIGGER `statemachine_probe` BEFORE INSERT ON `statemachine no table` FOR EACH ROW SET @probe = 1"
_REFUSALS = {
    _BINARY_LOGGING: "Binary logging is on, and this user may not create triggers then (error 1419). Set "
    "log_bin_trust_function_creators = 1 on the server (SET GLOBAL, and in its configuration), or use a user with the "
    "right SUPER.",
    _DENIED: "This user may not create triggers (error 1142). Grant it the right TRIGGER on this database.",
}

# Of the names of the guard's triggers, in the order of the templates.
_GUARD_SUFFIXES = ("", "_insert", "_mark", "_delete")
_UPDATE_GUARD = (
    "CREATE TRIGGER {name} BEFORE UPDATE ON {table} FOR EACH ROW BEGIN {declare}"
    "IF NOT (OLD.{key} <=> NEW.{key}) THEN "
    "SET refusal = 'The primary key of a row with a status cannot change'; {refuse} END IF; "
    "IF NOT ({old} <=> {new}) AND NOT COALESCE({legal}, FALSE) THEN "
    "SET refusal = LEFT(CONCAT('Invalid transition from ', {old_text}, ' to ', {new_text}, '. ', "
    "COALESCE(CASE {old} {cases} END, '')), {longest}); {refuse} END IF; END"
)
_INSERT_GUARD = (
    "CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW BEGIN {declare}"
    "IF NOT COALESCE({new} IN ({allowed}){or_restored}, FALSE) THEN "
    "SET refusal = LEFT(CONCAT('Invalid status ', {new_text}, ' for a new row. ', {valid}), {longest}); "
    "{refuse} END IF; END"
)
_REPLACE_MARK = (
    "CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW "
    "SET @{mark_at} = NOW(6), @{mark_key} = NEW.{key}, @{mark_state} = NEW.{column}"
)
# The mark is in variables of the constraint's own: a table may have several. NOW() is constant within a statement, so the mark of an earlier INSERT is not mistaken for this one's.
_REPLACE_GUARD = (
    "CREATE TRIGGER {name} BEFORE DELETE ON {table} FOR EACH ROW BEGIN {declare}"
    "IF @{mark_at} = NOW(6) AND @{mark_key} = OLD.{key} "
    "AND NOT (BINARY @{mark_state} <=> BINARY OLD.{column}) THEN "
    "SET refusal = CONCAT('Invalid transition from ', {old_text}, ' by REPLACE'); {refuse} END IF; END"
)
_MARK = (
    "CREATE TRIGGER {marker} BEFORE UPDATE ON {guarded} FOR EACH ROW "
    "IF NOT (BINARY OLD.{column} <=> BINARY NEW.{column}) "
    "AND (NEW.{version} <=> OLD.{version} OR NEW.{at} IS NULL) THEN "
    "SET NEW.{version} = {new_version}, NEW.{at} = {now}, "
    "NEW.{actor} = '', NEW.{reason} = ''; END IF"
)
_RECORD = (
    "CREATE TRIGGER {name} AFTER UPDATE ON {guarded} FOR EACH ROW "
    "IF NOT (BINARY OLD.{column} <=> BINARY NEW.{column}) THEN "
    "INSERT INTO {table} ({subject}, {source}, {target}, `at`, `actor`, `reason`) "
    "VALUES (NEW.{primary_key}, OLD.{column}, NEW.{column}, NEW.{at}, NEW.{actor}, NEW.{reason}); END IF"
)


class MySQLDialect(Dialect):
    vendor = "mysql"
    new_version = f"FLOOR(RAND() * {VERSIONS})"
    quote_mark = "`"
    reads_snapshot = True
    locks_indexes = True
    # InnoDB locks the part of an index that it reads: in an index of the state, also entries of other rows.
    unindexed = "CAST(%(expressions)s AS BINARY)"

    @property
    def now(self) -> str:
        offset = self.utc_offset
        return f"(UTC_TIMESTAMP(6) + INTERVAL {offset} SECOND)" if offset else "UTC_TIMESTAMP(6)"

    def literal(self, state: State) -> str:
        if isinstance(state, str) and "\\" in state:
            # Whether a backslash is an escape depends on the session, and the catalogue shows the text without it.
            return f"CONVERT(X'{state.encode().hex()}' USING utf8mb4)"
        return super().literal(state)

    def create_guard(self, spec: GuardSpec) -> list[str]:
        graph, column = spec.graph, self.quote(spec.column)
        allowed = graph.initial or graph.states
        old, new = (self.exact(f"{row}.{column}", graph) for row in ("OLD", "NEW"))
        parts = {
            "declare": _DECLARE,
            "refuse": _SIGNAL,
            "table": TABLE,
            "column": column,
            "key": self.quote(spec.primary_key),
            **{f"mark_{part}": self.quote(f"{spec.name}_{part}") for part in ("at", "key", "state")},
            "old": old,
            "new": new,
            "old_text": self._text(f"OLD.{column}"),
            "new_text": self._text(f"NEW.{column}"),
            "legal": self._legal(graph, old, new),
            "cases": " ".join(
                f"WHEN {self._exact(state)} THEN {self.literal(self.targets_text(graph, state))}"
                for state in graph.states
            ),
            "allowed": ", ".join(self._exact(state) for state in allowed),
            "valid": self.literal(f"Valid: {list(allowed)}"),
            "or_restored": ""
            if graph.initial is None
            else f" OR ({RESTORING} = 1 AND {new} IN ({', '.join(self._exact(state) for state in graph.states)}))",
            "longest": _LONGEST,
        }
        templates = (_UPDATE_GUARD, _INSERT_GUARD, _REPLACE_MARK, _REPLACE_GUARD)
        return [
            template.format(name=self.quote(spec.name + suffix), **parts)
            for template, suffix in zip(templates, _GUARD_SUFFIXES, strict=True)
        ]

    def drop_guard(self, spec: GuardSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name + end)}" for end in _GUARD_SUFFIXES]

    def create_journal(self, spec: JournalSpec) -> list[str]:
        names, marker = self.quoted(spec), self.quote(spec.name + "_mark")
        return [
            _MARK.format(guarded=TABLE, marker=marker, now=self.now, new_version=self.new_version, **names),
            _RECORD.format(guarded=TABLE, **names),
        ]

    def drop_journal(self, spec: JournalSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name + end)}" for end in ("_mark", "")]

    def installed(self, connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT trigger_name, action_statement FROM information_schema.triggers "
                "WHERE event_object_schema = DATABASE() AND event_object_table = %s",
                [self.unquote(table)],
            )
            return dict(cursor.fetchall())

    def expected(self, statements: Sequence[str], table: str) -> dict[str, str]:
        return {text.split("`")[1]: text.split("FOR EACH ROW ", 1)[1] for text in statements}

    def creation_refused(self, connection: BaseDatabaseWrapper) -> str:
        try:
            with connection.cursor() as cursor:
                cursor.execute(_PROBE)
        except DatabaseError as error:
            return _REFUSALS.get(error.args[0], "") if error.args else ""
        return ""

    @contextmanager
    def restoring(self, connection: BaseDatabaseWrapper, guards: Sequence[tuple[str, GuardSpec]]) -> Iterator[None]:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {RESTORING}")
            [before] = cursor.fetchone()
            cursor.execute(f"SET {RESTORING} = 1")
        try:
            yield
        finally:
            # No rollback takes a variable back, so set it in an aborted transaction too.
            broken, connection.needs_rollback = connection.needs_rollback, False
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"SET {RESTORING} = %s", [before])
            finally:
                connection.needs_rollback = broken

    def is_conflict(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] == _CHANGED_SINCE_SNAPSHOT)

    def is_deadlock(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] == _DEADLOCK)

    def _legal(self, graph: Graph, old: str, new: str) -> str:
        """Return the condition that the map has an edge."""
        return (
            " OR ".join(
                f"({old} = {self._exact(state)} AND {new} IN "
                f"({', '.join(self._exact(target) for target in graph.targets(state))}))"
                for state in graph.states
                if graph.targets(state)
            )
            or "FALSE"
        )

    def exact(self, column: str, graph: Graph) -> str:
        return f"BINARY CONVERT({column} USING utf8mb4)"

    def _text(self, column: str) -> str:
        # CONCAT refuses to mix the collations of columns and literals.
        return f"COALESCE(CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin, 'NULL')"

    def _exact(self, state: State) -> str:
        return f"BINARY {self.literal(state)}"
