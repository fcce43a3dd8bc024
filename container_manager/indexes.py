"""An index of some rows only, on databases without partial indexes too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.models import Index, Model


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
