"""`TransitionJournal`: the history of a field, written by the database in the statement that changes it.

`JournalTable` and `RowIdField` are for the model of the journal's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import BigAutoField, Model

from .trigger_constraint import TriggerConstraint, column_of
from .triggers import dialect_for
from .triggers.dialect import Dialect, JournalSpec

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

# The prefix of the new table while Django's schema editor rebuilds one on SQLite.
_REBUILT = "new__"
_FIELDS = ("field", "table", "subject", "source", "target", "version", "at", "actor", "reason")


class TransitionJournal(TriggerConstraint):
    """Insert a row into ``table`` for each change of ``field``.

    ``version``, ``at``, ``actor`` and ``reason`` are fields of the guarded model (its marks). A change that sets a new
    ``version`` and a time is journaled with its actor and reason. For any other change the database sets the marks: a
    new version, its own clock, no actor and no reason. So every change has a version, however it was made.
    ``table`` may have Django's ``%(app_label)s`` and ``%(class)s``, as the name of a constraint of an abstract base.
    ``subject``, ``source`` and ``target`` are columns of the journal's table, which also has ``at``, ``actor`` and
    ``reason``.
    """

    def __init__(
        self,
        *,
        field: str,
        table: str,
        name: str,
        subject: str,
        version: str,
        at: str,
        actor: str,
        reason: str,
        source: str = "from_status",
        target: str = "to_status",
    ) -> None:
        self.field, self.table, self.subject = field, table, subject
        self.source, self.target = source, target
        self.version, self.at, self.actor, self.reason = version, at, actor, reason
        super().__init__(name=name)

    def fields(self) -> tuple[str, ...]:
        return (self.field, self.version, self.at, self.actor, self.reason)

    def table_of(self, model: type[Model]) -> str:
        """Return the name of the journal's table; of an abstract base's constraint, each model has its own."""
        words = {"%(app_label)s": model._meta.app_label, "%(class)s": str(model._meta.model_name)}
        table = self.table
        for placeholder, word in words.items():
            table = table.replace(placeholder, word)
        return table

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the journal's table that the trigger fills."""
        return (self.subject, self.source, self.target, "at", "actor", "reason")

    def columns_used(self, model: type[Model]) -> dict[str, set[str]]:
        return {**super().columns_used(model), self.table: set(self.columns())}

    def create_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        return dialect.create_journal(self._spec(model))

    def drop_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        return dialect.drop_journal(self._spec(model))

    def validate(
        self,
        model: type[Model],
        instance: Model,
        exclude: Iterable[str] | None = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        """Do nothing: a journal refuses no change."""

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        kwargs.update({name: getattr(self, name) for name in _FIELDS})
        return path, args, kwargs

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TransitionJournal):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    __hash__ = TriggerConstraint.__hash__

    def _spec(self, model: type[Model]) -> JournalSpec:
        column = partial(column_of, model)
        return JournalSpec(
            name=self.name,
            primary_key=column(model._meta.pk.name),
            column=column(self.field),
            version=column(self.version),
            at=column(self.at),
            actor=column(self.actor),
            reason=column(self.reason),
            table=self.table_of(model),
            subject=self.subject,
            source=self.source,
            target=self.target,
        )


class JournalTable(TriggerConstraint):
    """Allow migrations to rebuild a journal's table on SQLite; for ``Meta.constraints`` of the journal's model.

    SQLite cannot replace a table while a trigger of another table writes to it. So the trigger is dropped when the
    rebuild begins and created again when it ends. Other databases need nothing.
    """

    def create_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        return []

    def drop_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        return []

    def constraint_sql(self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        assert model is not None
        assert schema_editor is not None
        connection = schema_editor.connection
        dialect = dialect_for(connection)
        table = model._meta.db_table.removeprefix(_REBUILT)
        for name, statement in dialect.writers(connection, table).items():
            schema_editor.execute(f"DROP TRIGGER {dialect.quote(name)}", params=None)
            schema_editor.deferred_sql.append(statement)
        return super().constraint_sql(model, schema_editor)

    def validate(
        self,
        model: type[Model],
        instance: Model,
        exclude: Iterable[str] | None = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        """Do nothing."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JournalTable):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    __hash__ = TriggerConstraint.__hash__


class RowIdField(BigAutoField):  # type: ignore[type-arg]  # only the stubs have arguments
    """A BigAutoField without AUTOINCREMENT on SQLite.

    AUTOINCREMENT writes a second table for every row, which takes a tenth of a transition. Without it keys still
    ascend; only the key of the newest row can be reused after that row was deleted.
    """

    def deconstruct(self) -> tuple[str, str, Sequence[Any], dict[str, Any]]:
        name, path, args, kwargs = super().deconstruct()
        if type(self) is RowIdField:
            path = f"{__package__}.RowIdField"
        return name, path, args, kwargs

    def db_type_suffix(self, connection: BaseDatabaseWrapper) -> str | None:
        return None if connection.vendor == "sqlite" else super().db_type_suffix(connection)
