"""`TransitionJournal`: the history of a field, written by the database in the statement that changes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from .dialects.base import Dialect, JournalSpec
from .triggers import TriggerConstraint, column_of

_FIELDS = ("field", "table", "subject", "source", "target", "version", "at", "actor", "reason")


class TransitionJournal(TriggerConstraint):
    """Write a row into ``table`` for each change of ``field``.

    ``version``, ``at``, ``actor`` and ``reason`` are fields of the guarded model: a change that gives ``version``
    another value (and a time) says who and why in the others; for any other change the database sets them itself, to
    a new version, its clock, and no actor or reason. So each change has its version, whichever way it was made.
    ``subject``, ``source`` and ``target`` are columns of the journal table, beside its ``at``, ``actor``, ``reason``.
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
        """Accept everything: a journal records, it does not refuse."""

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        kwargs.update({name: getattr(self, name) for name in _FIELDS})
        return path.replace("statemachine.journal", "statemachine"), args, kwargs

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
            table=self.table,
            subject=self.subject,
            source=self.source,
            target=self.target,
        )
