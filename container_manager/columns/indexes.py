"""Indexes of some rows only, on databases without partial indexes too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, cast

from django.core import checks
from django.core.exceptions import FieldError, ValidationError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement, Table
from django.db.models import Index, Model, Q, QuerySet, UniqueConstraint


class PartialIndex(Index):
    """A partial index; on MariaDB and MySQL a full one that begins with ``leading``.

    ``leading``: the columns that the condition compares with one value each. There the rows that it means are one part
    of the index. A partial index does without them: PostgreSQL would not use them to find a place in it, since the
    condition implies what is asked of them.
    """

    def __init__(self, *, leading: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.leading = list(leading)

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, arguments, options = super().deconstruct()
        return path, arguments, {**options, "leading": self.leading}

    def create_sql(
        self, model: type[Model], schema_editor: BaseDatabaseSchemaEditor, using: str = "", **options: Any
    ) -> Statement:
        index: Index = self
        if not schema_editor.connection.features.supports_partial_indexes:
            index = Index(fields=[*self.leading, *self.fields], name=self.name)
        return Index.create_sql(index, model, schema_editor, using=using, **options)


class PartialUnique(UniqueConstraint):
    """A text field is unique among the rows of a condition; on MariaDB and MySQL too.

    These have neither partial indexes nor, both of them, indexes of an expression: there a generated column of the
    constraint's name, which queries of the model do not see, has the field's value for the rows of the condition.
    """

    def check(self, model: Any, connection: BaseDatabaseWrapper) -> list[checks.CheckMessage]:
        parent: Any = super()
        return _without_warning(parent.check(model, connection))

    def _check(self, model: Any, connection: BaseDatabaseWrapper) -> list[checks.CheckMessage]:
        # The same in Django 5.2.
        parent: Any = super()
        return _without_warning(parent._check(model, connection))

    def validate(
        self,
        model: type[Model],
        instance: Model,
        exclude: Collection[str] | None = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        """Raise ValidationError where another row has the instance's value; Django's way would read all rows."""
        field = self._field(model)
        value = getattr(instance, field.attname)
        if (exclude and field.name in exclude) or not value:
            return
        if not self.rows(model._base_manager.using(using), value).exclude(pk=instance.pk).exists():
            return
        checked, condition = cast(Any, instance), cast(Q, self.condition)
        with suppress(FieldError):
            # Not known where a form leaves out what the condition is about.
            if not condition.check(checked._get_field_expression_map(meta=model._meta, exclude=exclude), using=using):
                return
        raise ValidationError({field.name: self.get_violation_error_message()}, code=self.violation_error_code)

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        if schema_editor.connection.features.supports_partial_indexes:
            return super().constraint_sql(model, schema_editor)
        # After the table is there.
        schema_editor.deferred_sql.append(self.create_sql(model, schema_editor))
        return None

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        if schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor)
        field = self._field(model)
        kind = field.db_parameters(schema_editor.connection)
        collation = f" COLLATE {kind['collation']}" if kind.get("collation") else ""
        quote = schema_editor.quote_name
        return Statement(
            "ALTER TABLE %(table)s ADD COLUMN %(name)s %(type)s GENERATED ALWAYS AS "
            "(CASE WHEN %(condition)s THEN %(column)s END) STORED INVISIBLE, ADD UNIQUE INDEX %(name)s (%(name)s)",
            table=Table(model._meta.db_table, quote),
            name=quote(self.name),
            type=f"{kind['type']}{collation}",
            condition=self._condition_sql(model, schema_editor),
            column=quote(field.column),
        )

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        if schema_editor.connection.features.supports_partial_indexes:
            return super().remove_sql(model, schema_editor)
        quote = schema_editor.quote_name
        return Statement(
            "ALTER TABLE %(table)s DROP INDEX %(name)s, DROP COLUMN %(name)s",
            table=Table(model._meta.db_table, quote),
            name=quote(self.name),
        )

    def rows(self, rows: QuerySet[Any], value: str) -> Any:
        """Return the one row of the condition that has a value, if there is one; the index serves it."""
        where = self._where(rows.model, rows.db)
        return rows.extra(where=[where], params=[value])  # noqa: S610  # only words of ours

    def _where(self, model: type[Model], using: str) -> str:
        # Constants are literals: no planner knows what is in a parameter when it looks for a partial index.
        connection = connections[using]
        quote = connection.ops.quote_name
        if not connection.features.supports_partial_indexes:
            return f"{quote(self.name)} = %s"
        condition = self._condition_sql(model, connection.schema_editor())
        return f"{condition} AND {quote(self._field(model).column)} = %s"

    def _condition_sql(self, model: type[Model], schema_editor: Any) -> str:
        # Private to Django, so not in the stubs.
        return str(cast(Any, self)._get_condition_sql(model, schema_editor))

    def _field(self, model: type[Model]) -> Any:
        (name,) = self.fields
        return model._meta.get_field(name)


def _without_warning(found: Sequence[checks.CheckMessage]) -> list[checks.CheckMessage]:
    """Leave out that a database has no partial indexes."""
    return [message for message in found if message.id != "models.W036"]
