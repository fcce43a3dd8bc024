"""`StateMachineQuerySet`: transitions of many rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models, transaction
from django.utils import timezone

from .announcements import send_transitions
from .deadlocks import retry_deadlocks
from .graph import State
from .machine import Machine, Transition, actor_name, attributes, machine_of, update_values
from .triggers import dialect_for

T = TypeVar("T", bound=models.Model)

# A statement names its rows by key: this many stay below the limit of parameters of every database
# (SQLite's default is 32,766: https://www.sqlite.org/limits.html).
_KEYS_PER_STATEMENT = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkTransition:
    """The result of a bulk transition: how many rows changed, and the state of each refused row, by key."""

    changed: int
    refused: dict[Any, State]


class StateMachineQuerySet(models.QuerySet[T]):
    """A queryset whose rows have a state machine."""

    def transition_to(
        self, new: object, *, reason: str = "", actor: object = None, at: datetime | None = None
    ) -> BulkTransition:
        """Change the state of every row that has the edge, in one UPDATE; report the others.

        ``at``: when, where the present by this host's clock is not meant. The rows are locked before they are read.
        Raises UnknownState, or ImproperlyConfigured if the model is not a
        StateMachineModel: its transitions' effects are then unknown.
        """
        if not self._is_derived():
            raise ImproperlyConfigured(
                f"{self.model._meta.label} is no StateMachineModel, so the effects of its transitions are unknown; "
                "in a data migration use update() with all the columns that change."
            )
        machine = machine_of(self.model)
        target, name, reason = machine.state(new), actor_name(actor), str(reason)
        self._for_write = True
        return retry_deadlocks(lambda: self._move(machine, target, name, reason, at), using=self.db)

    def _move(
        self, machine: Machine, target: State, name: str, reason: str, asked_at: datetime | None
    ) -> BulkTransition:
        at = asked_at or timezone.now()
        with transaction.atomic(using=self.db, savepoint=False):
            found = self._found(machine.field)
            moving = {pk: source for pk, source in found.items() if machine.graph.has_edge(source, target)}
            values = update_values(machine.changes(target, at=at, actor=name, reason=reason))
            rows = self.model._base_manager.using(self.db)
            if not dialect_for(connections[self.db]).locks_indexes:
                rows = rows.filter(**{f"{machine.field}__in": machine.graph.sources(target)})
            keys = list(moving)
            changed = sum(
                rows.filter(pk__in=keys[start : start + _KEYS_PER_STATEMENT]).update(**values)
                for start in range(0, len(keys), _KEYS_PER_STATEMENT)
            )
            transitions = partial(_transitions, moving, target, at, name, reason)
            send_transitions(self.model, transitions, using=self.db)
        return BulkTransition(changed=changed, refused={pk: s for pk, s in found.items() if pk not in moving})

    # As with delete(): ``objects.transition_to(…)`` would move the whole table; ``objects.all()`` says so.
    transition_to.queryset_only = True  # type: ignore[attr-defined]

    async def atransition_to(
        self, new: object, *, reason: str = "", actor: object = None, at: datetime | None = None
    ) -> BulkTransition:
        """Do `transition_to` from asynchronous code."""
        return await sync_to_async(self.transition_to)(new, reason=reason, actor=actor, at=at)

    atransition_to.queryset_only = True  # type: ignore[attr-defined]

    def bulk_update(self, objs: Iterable[T], fields: Iterable[str], batch_size: int | None = None) -> int:
        """Do Django's bulk_update, and remember what was written as loaded."""
        if not self._is_derived():
            return super().bulk_update(objs, fields, batch_size=batch_size)
        objs, fields = tuple(objs), tuple(attributes(self.model, tuple(fields)))
        machine = machine_of(self.model)
        self._for_write = True
        with transaction.atomic(using=self.db, savepoint=False):
            updated = super().bulk_update(objs, fields, batch_size=batch_size)
            # Instances of other databases have been copied to this one, and still describe their own row.
            mine = [obj for obj in objs if obj._is_of(self.db)]  # type: ignore[attr-defined]
            if machine.field in fields:
                fields = (*fields, *machine.marks)
                self._read_back(mine, (machine.field, *machine.marks))
        self._remember(mine, fields)
        return updated

    def bulk_create(  # noqa: PLR0917  # Django's signature
        self,
        objs: Iterable[T],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[T]:
        """Do Django's bulk_create, and remember what was written as loaded, unless conflicts may have been skipped."""
        objs = list(objs)
        if self._is_derived():
            machine = machine_of(self.model)
            for obj in objs:
                obj._settle_defaults(machine)  # type: ignore[attr-defined]  # as in _remember
        created = super().bulk_create(
            objs, batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields
        )
        if self._is_derived() and not (ignore_conflicts or update_conflicts):
            self._remember(created, None)
        return created

    def _is_derived(self) -> bool:
        """Tell whether the model is a StateMachineModel; the historical models of migrations are not."""
        return hasattr(self.model, "transition_effects")

    def _found(self, field: str) -> dict[Any, State]:
        """Return the state of each row of this queryset, by key; the rows are locked if the database has row locks.

        All code locks rows in the order of their keys, so that transactions with the same rows do not deadlock.
        """
        connection = connections[self.db]
        if not connection.features.has_select_for_update or self.query.select_for_update:
            return dict(self.values_list("pk", field))
        rows = self.all() if self.query.is_sliced else self.order_by("pk")
        if not (rows._merges_rows() or dialect_for(connection).locks_indexes):
            return dict(rows.select_for_update().values_list("pk", field))
        # FOR UPDATE allows neither outer joins nor what merges rows. So lock by key, then query again for the rows
        # that have left the queryset meanwhile.
        keys = sorted(rows.values_list("pk", flat=True))
        base = self.model._base_manager.using(self.db).order_by("pk").select_for_update()
        locked = {
            pk: state
            for start in range(0, len(keys), _KEYS_PER_STATEMENT)
            for pk, state in base.filter(pk__in=keys[start : start + _KEYS_PER_STATEMENT]).values_list("pk", field)
        }
        still = set(rows.values_list("pk", flat=True))
        return {pk: state for pk, state in locked.items() if pk in still}

    def _merges_rows(self) -> bool:
        query = self.query.clone()
        if query.combinator or query.distinct or query.group_by is not None:
            return True
        if query.is_sliced:
            # The tables of the order are joined only by this.
            query.get_compiler(self.db).pre_sql_setup()
        return len(query.alias_map) > 1

    def _read_back(self, objs: Sequence[T], names: Sequence[str]) -> None:
        """Set attributes to what is in the rows."""
        rows = self.model._base_manager.using(self.db)
        by_key = {obj.pk: obj for obj in objs}
        keys = list(by_key)
        for start in range(0, len(keys), _KEYS_PER_STATEMENT):
            found = rows.filter(pk__in=keys[start : start + _KEYS_PER_STATEMENT]).values_list("pk", *names)
            for key, *values in found:
                by_key[key].__dict__.update(zip(names, values, strict=True))

    def _remember(self, objs: Sequence[T], fields: Collection[str] | None) -> None:
        for obj in objs:
            obj._remember(fields)  # type: ignore[attr-defined]  # every model of this queryset is a StateMachineModel


def _transitions(moved: dict[Any, State], target: State, at: Any, actor: str, reason: str) -> tuple[Transition, ...]:
    return tuple(
        Transition(pk=pk, source=source, target=target, at=at, actor=actor, reason=reason)
        for pk, source in moved.items()
    )
