"""The base of constraints that triggers enforce: how migrations create, drop, rename and compare the triggers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.backends.ddl_references import Statement, Table
from django.db.models import BaseConstraint, Model

from .triggers import dialect_for, dialect_of
from .triggers.dialect import TABLE, Dialect

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class _Nothing(str):
    """SQL that does nothing, for a schema editor that executes whatever it is given.

    False, so that a schema editor that tests it does not execute it.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


NOTHING = _Nothing("SELECT 1")


# PostgreSQL's limit of 63 bytes, less the longest suffix that the dialects append to a constraint's name.
LONGEST_NAME = 63 - len("_insert")


class TriggerConstraint(BaseConstraint):
    """A constraint that triggers enforce."""

    def fields(self) -> Iterable[str]:
        """Return the names of the fields that the triggers use."""
        return ()

    def columns_used(self, model: type[Model]) -> dict[str, set[str]]:
        """Return what the triggers name: table → columns."""
        names = {model._meta.pk.name, *self.fields()}
        return {model._meta.db_table: {column_of(model, name) for name in names}}

    def create_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        raise NotImplementedError

    def drop_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        raise NotImplementedError

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        # Migrations name this package's own classes by their public path; a subclass elsewhere keeps its own.
        if type(self).__module__.rpartition(".")[0] == __package__:
            path = f"{__package__}.{type(self).__name__}"
        return path, args, kwargs

    def constraint_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        self._defer(model, schema_editor)
        # None, not "": Django leaves a constraint without inline SQL out of CREATE TABLE.
        return None  # type: ignore[return-value]

    def create_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        self._defer(model, schema_editor)
        return NOTHING

    def remove_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        assert model is not None
        assert schema_editor is not None
        deferred = schema_editor.deferred_sql
        deferred[:] = [sql for sql in deferred if getattr(sql, "constraint_name", None) != self.name]
        table = schema_editor.connection.ops.quote_name(model._meta.db_table)
        statements = self.drop_statements(model, dialect_for(schema_editor.connection))
        for sql in statements:
            schema_editor.execute(sql.replace(TABLE, table), params=None)
        return None  # type: ignore[return-value]

    def install(self, model: type[Model], connection: BaseDatabaseWrapper) -> None:
        """Drop and create the triggers on an existing table."""
        dialect = dialect_for(connection)
        table = connection.ops.quote_name(model._meta.db_table)
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            for sql in (*self.drop_statements(model, dialect), *self.create_statements(model, dialect)):
                cursor.execute(sql.replace(TABLE, table), None)

    def drift(self, model: type[Model], connection: BaseDatabaseWrapper, *, missing_only: bool = False) -> list[str]:
        """Return the names of triggers that are missing or differ from the constraint."""
        dialect = dialect_for(connection)
        table = model._meta.db_table
        if not (expected := dialect.expected(self.create_statements(model, dialect), table)):
            return []
        installed = dialect.installed(connection, table)
        if missing_only:
            return sorted(expected.keys() - installed.keys())
        return sorted(name for name, text in expected.items() if installed.get(name) != text)

    def absent(self, model: type[Model], connection: BaseDatabaseWrapper) -> list[str]:
        """Return the tables and columns that the triggers name and the database does not have."""
        dialect = dialect_for(connection)
        found: list[str] = []
        for table, columns in self.columns_used(model).items():
            if dialect.has_table(connection, table):
                found += [f"{table}.{column}" for column in columns - dialect.columns(connection, table)]
            else:
                found.append(table)
        return sorted(found)

    def _defer(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> None:
        assert model is not None
        assert schema_editor is not None
        dialect = dialect_for(schema_editor.connection)
        for sql in self.create_statements(model, dialect):
            schema_editor.deferred_sql.append(
                TriggerStatement(
                    sql.replace("%", "%%").replace(TABLE, "%(table)s"),
                    table=Table(model._meta.db_table, schema_editor.quote_name),
                    constraint_name=self.name,
                )
            )


class TriggerStatement(Statement):
    """A deferred statement that knows its constraint."""

    def __init__(self, template: str, *, table: Table, constraint_name: str) -> None:
        super().__init__(template, table=table)
        self.constraint_name = constraint_name


def column_of(model: type[Model], name: str) -> str:
    """Return the column of a model's field."""
    field: Any = model._meta.get_field(name)
    return str(field.column)


def sweep(using: str) -> list[str]:
    """Drop the trigger functions that dropped tables left behind; return their names.

    Django drops a table without its constraints' SQL, and PostgreSQL then keeps the functions of its triggers.
    """
    connection = connections[using]
    dialect = dialect_of(connection)
    return dialect.sweep(connection) if dialect else []


def trigger_constraints(model: type[Model]) -> Sequence[TriggerConstraint]:
    """Return the constraints of a model that triggers enforce."""
    found: list[Any] = [c for c in model._meta.constraints if isinstance(c, TriggerConstraint)]
    return found
