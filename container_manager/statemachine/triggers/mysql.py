"""MariaDB's and MySQL's triggers.

Comparisons are binary, since the usual collations treat 'QUEUED ' and 'queued' as equal. REPLACE is a DELETE and an
INSERT; the delete trigger recognises it by the key that the same statement is inserting.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from ..graph import Graph, State
from .dialect import TABLE, VERSIONS, Dialect, GuardSpec, JournalSpec

# ER_CONSTRAINT_FAILED, which Django's backend maps to IntegrityError.
_SIGNAL = "SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 4025, MESSAGE_TEXT = refusal;"
# The longest message of a signal on MariaDB.
_LONGEST = 512
_DECLARE = f"DECLARE refusal VARCHAR({_LONGEST}) CHARACTER SET utf8mb4; "
# ER_CHECKREAD: under innodb_snapshot_isolation, the row changed since this transaction's snapshot.
_CHANGED_SINCE_SNAPSHOT = 1020
# ER_LOCK_DEADLOCK: https://mariadb.com/kb/en/mariadb-error-codes/
_DEADLOCK = 1213


class MySQLDialect(Dialect):
    vendor = "mysql"
    new_version = f"FLOOR(RAND() * {VERSIONS})"
    quote_mark = "`"
    reads_snapshot = True
    locks_indexes = True
    # InnoDB locks the part of an index that it reads: in an index of the state, also entries of other rows.
    unindexed = "CAST(%(expressions)s AS BINARY)"

    def literal(self, state: State) -> str:
        if isinstance(state, str) and "\\" in state:
            # Whether a backslash is an escape depends on the session, and the catalogue shows the text without it.
            return f"CONVERT(X'{state.encode().hex()}' USING utf8mb4)"
        return super().literal(state)

    def create_guard(self, spec: GuardSpec) -> list[str]:
        return [self._update_guard(spec), self._insert_guard(spec), self._replace_mark(spec), self._replace_guard(spec)]

    def drop_guard(self, spec: GuardSpec) -> list[str]:
        return [f"DROP TRIGGER IF EXISTS {self.quote(spec.name + end)}" for end in ("", "_insert", "_mark", "_delete")]

    def create_journal(self, spec: JournalSpec) -> list[str]:
        q = self.quote
        changed = f"NOT (BINARY OLD.{q(spec.column)} <=> BINARY NEW.{q(spec.column)})"
        unmarked = f"(NEW.{q(spec.version)} <=> OLD.{q(spec.version)} OR NEW.{q(spec.at)} IS NULL)"
        return [
            f"CREATE TRIGGER {q(spec.name + '_mark')} BEFORE UPDATE ON {TABLE} FOR EACH ROW "
            f"IF {changed} AND {unmarked} THEN "
            f"SET NEW.{q(spec.version)} = {self.new_version}, NEW.{q(spec.at)} = UTC_TIMESTAMP(6), "
            f"NEW.{q(spec.actor)} = '', NEW.{q(spec.reason)} = ''; END IF",
            f"CREATE TRIGGER {q(spec.name)} AFTER UPDATE ON {TABLE} FOR EACH ROW "
            f"IF {changed} THEN "
            f"INSERT INTO {q(spec.table)} ({q(spec.subject)}, {q(spec.source)}, {q(spec.target)}, "
            f"`at`, `actor`, `reason`) VALUES (NEW.{q(spec.primary_key)}, OLD.{q(spec.column)}, NEW.{q(spec.column)}, "
            f"NEW.{q(spec.at)}, NEW.{q(spec.actor)}, NEW.{q(spec.reason)}); END IF",
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

    def is_conflict(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] == _CHANGED_SINCE_SNAPSHOT)

    def is_deadlock(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] == _DEADLOCK)

    def _update_guard(self, spec: GuardSpec) -> str:
        column, key, graph = self.quote(spec.column), self.quote(spec.primary_key), spec.graph
        old, new = (self.exact(f"{row}.{column}", graph) for row in ("OLD", "NEW"))
        legal = " OR ".join(
            f"({old} = {self._exact(state)} AND {new} IN "
            f"({', '.join(self._exact(target) for target in graph.targets(state))}))"
            for state in graph.states
            if graph.targets(state)
        )
        cases = " ".join(
            f"WHEN {self._exact(state)} THEN {self.literal(self.targets_text(graph, state))}" for state in graph.states
        )
        return (
            f"CREATE TRIGGER {self.quote(spec.name)} BEFORE UPDATE ON {TABLE} FOR EACH ROW BEGIN "
            f"{_DECLARE}"
            f"IF NOT (OLD.{key} <=> NEW.{key}) THEN "
            f"SET refusal = 'The primary key of a row with a status cannot change'; {_SIGNAL} END IF; "
            f"IF NOT ({old} <=> {new}) AND NOT COALESCE({legal or 'FALSE'}, FALSE) THEN "
            f"SET refusal = LEFT(CONCAT('Invalid transition from ', {self._text(f'OLD.{column}')}, ' to ', "
            f"{self._text(f'NEW.{column}')}, '. ', COALESCE(CASE {old} {cases} END, '')), {_LONGEST}); "
            f"{_SIGNAL} END IF; END"
        )

    def _insert_guard(self, spec: GuardSpec) -> str:
        column, allowed = self.quote(spec.column), spec.graph.initial or spec.graph.states
        exact = ", ".join(self._exact(state) for state in allowed)
        return (
            f"CREATE TRIGGER {self.quote(spec.name + '_insert')} BEFORE INSERT ON {TABLE} FOR EACH ROW BEGIN "
            f"{_DECLARE}"
            f"IF NOT COALESCE({self.exact(f'NEW.{column}', spec.graph)} IN ({exact}), FALSE) THEN "
            f"SET refusal = LEFT(CONCAT('Invalid status ', {self._text(f'NEW.{column}')}, ' for a new row. ', "
            f"{self.literal(f'Valid: {list(allowed)}')}), {_LONGEST}); {_SIGNAL} END IF; END"
        )

    def _replace_mark(self, spec: GuardSpec) -> str:
        column, key = self.quote(spec.column), self.quote(spec.primary_key)
        return (
            f"CREATE TRIGGER {self.quote(spec.name + '_mark')} BEFORE INSERT ON {TABLE} FOR EACH ROW "
            f"SET @replaced_at = NOW(6), @replaced_key = NEW.{key}, @replaced_state = NEW.{column}"
        )

    def _replace_guard(self, spec: GuardSpec) -> str:
        # NOW() is constant within a statement, so the mark of an earlier INSERT is not mistaken for this one's.
        column, key = self.quote(spec.column), self.quote(spec.primary_key)
        return (
            f"CREATE TRIGGER {self.quote(spec.name + '_delete')} BEFORE DELETE ON {TABLE} FOR EACH ROW BEGIN "
            f"{_DECLARE}"
            f"IF @replaced_at = NOW(6) AND @replaced_key = OLD.{key} "
            f"AND NOT (BINARY @replaced_state <=> BINARY OLD.{column}) THEN "
            f"SET refusal = CONCAT('Invalid transition from ', {self._text(f'OLD.{column}')}, ' by REPLACE'); {_SIGNAL} END IF; END"
        )

    def exact(self, column: str, graph: Graph) -> str:
        return f"BINARY CONVERT({column} USING utf8mb4)"

    def _text(self, column: str) -> str:
        # CONCAT refuses to mix the collations of columns and literals.
        return f"COALESCE(CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin, 'NULL')"

    def _exact(self, state: State) -> str:
        return f"BINARY {self.literal(state)}"
