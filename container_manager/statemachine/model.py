"""`StateMachineModel`: transitions and saves that are conditional on what the instance was loaded with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from asgiref.sync import sync_to_async
from django.db import connections, models, router
from django.dispatch import Signal
from django.utils import timezone

from .exceptions import StaleTransition, TransitionError, UnsavedInstance
from .graph import State
from .guard import GuardedUpdate, state_found
from .machine import Effect, Machine, Transition, actor_name, machine_of
from .signals import send_transitions

_MISSING = object()


class StateMachineModel(models.Model):
    """A model whose state moves only along the edges of its `TransitionConstraint`.

    ``transition_effects`` says, by target state, what a transition writes beside the state. ``lifecycle_fields``
    (with those) are written by `save()` only where this instance changed them, and only if the row still is as it
    was loaded. The model declares its own manager, from `StateMachineQuerySet` or one derived from it.
    """

    transition_effects: ClassVar[Mapping[Any, Mapping[str, Any]]] = {}
    lifecycle_fields: ClassVar[tuple[str, ...]] = ()
    transition_signal: ClassVar[Signal | None] = None

    # Replaced, never changed in place: copies of an instance share it.
    _loaded: Mapping[str, Any] = {}
    # The state that transition_to(save=False) has prepared, waiting for save().
    _prepared: Any = _MISSING

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any) -> Self:
        instance = super().from_db(db, field_names, values, **options)
        instance._remember(None)
        return instance

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        super().refresh_from_db(using=using, fields=fields, from_queryset=from_queryset)
        self._remember(fields)

    def can_transition_to(self, new: object) -> bool:
        """Tell whether the map has an edge from this instance's state; False for an unknown state."""
        machine = machine_of(type(self))
        try:
            return machine.graph.has_edge(getattr(self, machine.field), machine.state(new))
        except TransitionError:
            return False

    def transition_to(self, new: object, save: bool = True, *, reason: str = "", actor: object = None) -> bool:
        """Move to another state; return True.

        One UPDATE, conditional on the state (and version) this instance was loaded with, writes the state and all
        that the transition changes; other changed attributes wait for `save()`. With ``save=False`` nothing is
        written: the next `save()` does it, guarded alike.

        Raises UnknownState, InvalidTransition (no such edge), StaleTransition (the row moved first), MissingRow,
        UnsavedInstance. After any of them the instance is as it was.
        """
        machine, pk = machine_of(type(self)), self.pk
        target, source = machine.state(new), getattr(self, machine.field)
        machine.check(pk=pk, source=source, target=target)
        changes = machine.changes(target, at=timezone.now(), actor=actor_name(actor), reason=reason)
        if not save:
            self._apply(changes)
            self._prepared = target
            return True
        if self._state.adding:
            raise UnsavedInstance(str(self._meta.verbose_name))
        expected = self._loaded.get(machine.field, source)
        if expected != source:
            machine.check(pk=pk, source=expected, target=target)
        using = self._state.db or router.db_for_write(type(self), instance=self)
        GuardedUpdate.of(type(self), target, using).run(self, expected, changes)
        self._apply(changes)
        self._prepared = _MISSING
        self._remember(changes)
        self._announce(expected, target, machine, using)
        return True

    async def atransition_to(self, new: object, save: bool = True, *, reason: str = "", actor: object = None) -> bool:
        """Do `transition_to` from asynchronous code."""
        return await sync_to_async(self.transition_to)(new, save, reason=reason, actor=actor)

    def save(  # noqa: DJ012  # beside the transition it shares its rules with
        self,
        *args: Any,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Any = None,
    ) -> None:
        """Save, with a changed state checked against the map and guarded by the loaded one.

        Raises what `transition_to` raises. A changed state brings its timestamps with it, as there.
        """
        if args:
            # Django 5.2 still takes these by position, in this order.
            names = ("force_insert", "force_update", "using", "update_fields")
            return self.save(**dict(zip(names, args, strict=False)))
        machine = machine_of(type(self))
        using = using or router.db_for_write(type(self), instance=self)
        before = {name: self.__dict__[name] for name in machine.guarded if name in self.__dict__}
        source: Any = None
        try:
            if machine.field in before and (update_fields is None or machine.field in update_fields):
                source, update_fields = self._prepare_save(machine, using, bool(force_insert), update_fields)
            self._super_save(force_insert, force_update, using, update_fields)
        except BaseException:
            self.__dict__.update(before)
            raise
        self._remember(update_fields)
        if update_fields is None or machine.field in update_fields:
            self._prepared = _MISSING
        if source is not None:
            self._announce(source, getattr(self, machine.field), machine, using)
        return None

    def _prepare_save(
        self, machine: Machine, using: str, inserting: bool, update_fields: Any
    ) -> tuple[State | None, Any]:
        """Check a state about to be saved; return where it comes from, if it moves, and the fields to write."""
        target = machine.state(self.__dict__[machine.field])
        self.__dict__[machine.field] = target
        loaded = self._loaded.get(machine.field, _MISSING)
        if self._state.adding or inserting or using != self._state.db or loaded is _MISSING or loaded == target:
            return None, update_fields
        machine.check(pk=self.pk, source=loaded, target=target, saving=True)
        changes = machine.changes(target, at=timezone.now(), actor="", reason="")
        if self._prepared != target:
            self._apply(changes, only_unchanged=True)
        return loaded, update_fields if update_fields is None else {*update_fields, *changes}

    def _super_save(self, force_insert: Any, force_update: bool, using: str, update_fields: Any) -> None:
        connection = connections[using]
        broken_before = connection.in_atomic_block and connection.needs_rollback
        try:
            super().save(force_insert=force_insert, force_update=force_update, using=using, update_fields=update_fields)
        except TransitionError:
            # The UPDATE matched no row: the database has nothing to undo, so the caller's transaction can go on.
            # With parent tables an earlier one may have been written: there the transaction stays broken.
            if connection.in_atomic_block and not broken_before and not self._meta.parents:
                connection.needs_rollback = False
            raise

    def _do_update(  # type: ignore[override]  # noqa: PLR0917  # one signature for Django 5.2 and 6
        self, base_qs: Any, using: str, pk_val: Any, values: Any, update_fields: Any, forced_update: bool, *rest: Any
    ) -> Any:
        # Private to Django, and the one place where a save's UPDATE can be made conditional without a further query.
        machine = machine_of(type(self))
        state_field = self._meta.get_field(machine.field)
        if state_field.model._meta.concrete_model is not base_qs.model._meta.concrete_model:
            return super()._do_update(base_qs, using, pk_val, values, update_fields, forced_update, *rest)
        loaded = self._loaded if using == self._state.db and not self._state.adding else {}
        guarded = set(machine.guarded)
        kept = [v for v in values if v[0].attname not in guarded or loaded.get(v[0].attname, _MISSING) != v[2]]
        target = next((v[2] for v in values if v[0].attname == machine.field), None)
        conditions = {}
        if any(v[0].attname in guarded for v in kept):
            conditions = self._conditions(machine, loaded, target)
        done = super()._do_update(
            base_qs.filter(**conditions), using, pk_val, kept, update_fields, forced_update, *rest
        )
        if not done and conditions:
            found = state_found(type(self), pk_val, machine.field, using)
            if found is not None:
                self._refuse_save(machine, loaded.get(machine.field), target, found)
        return done

    def _conditions(self, machine: Machine, loaded: Mapping[str, Any], target: Any) -> dict[str, Any]:
        if machine.field not in loaded:
            return {f"{machine.field}__in": (*machine.graph.sources(target), target)} if target is not None else {}
        conditions = {machine.field: loaded[machine.field]}
        if machine.journal is not None and machine.journal.version in loaded:
            conditions[machine.journal.version] = loaded[machine.journal.version]
        return conditions

    def _refuse_save(self, machine: Machine, expected: Any, target: Any, found: State) -> None:
        if expected is None and target is not None:
            machine.check(pk=self.pk, source=found, target=target, saving=True)
        raise StaleTransition(pk=self.pk, expected=expected, found=found)

    def _apply(self, changes: Mapping[str, Any], *, only_unchanged: bool = False) -> None:
        machine = machine_of(type(self))
        for name, value in changes.items():
            if only_unchanged and name != machine.field:
                journal = machine.journal
                mark = journal is not None and name in (journal.version, journal.actor, journal.reason)
                if not mark and getattr(self, name) != self._loaded.get(name):
                    continue
            setattr(self, name, getattr(self, name) + 1 if value is Effect.INCREMENT else value)

    def _remember(self, fields: Collection[str] | None) -> None:
        """Take what is in memory for what is in the row, for these fields (None: all)."""
        guarded = machine_of(type(self)).guarded
        names = guarded if fields is None else [name for name in guarded if name in fields]
        now = {name: self.__dict__[name] for name in names if name in self.__dict__}
        self._loaded = now if fields is None else {**self._loaded, **now}

    def _announce(self, source: State, target: State, machine: Machine, using: str) -> None:
        journal = machine.journal
        at: datetime = getattr(self, journal.at) if journal else timezone.now()
        transition = Transition(
            pk=self.pk,
            source=source,
            target=target,
            at=at,
            actor=getattr(self, journal.actor) if journal else "",
            reason=getattr(self, journal.reason) if journal else "",
        )
        send_transitions(type(self), lambda: (transition,), using=using)
