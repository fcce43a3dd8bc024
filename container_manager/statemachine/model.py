"""`StateMachineModel`: transitions and saves that are conditional on what the instance was loaded with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections, models, router
from django.dispatch import Signal
from django.utils import timezone

from .announcements import has_audience, send_transitions
from .constraint import literal_default
from .exceptions import MissingRow, StaleTransition, TransitionError, UnsavedInstance
from .graph import State
from .machine import Effect, Machine, Transition, actor_name, attributes, machine_of
from .restoring import restoring_rows
from .save_plan import SavePlan, plan_save
from .update import ExpectedRow, GuardedUpdate, matching, update_directly


class StateMachineModel(models.Model):
    """A model whose state moves only along the edges of its `TransitionConstraint`.

    ``transition_effects``: by target state, the fields that a transition writes beside the state. `save()` writes these
    and the ``lifecycle_fields`` only if the instance changed them, and only if the row is still as it was loaded.
    ``state_field``: the field whose machine this class moves, if the table has several; a proxy can move another.
    ``transition_signal`` is sent on commit. The model declares its own manager, made from `StateMachineQuerySet` or a
    subclass.

    A row is where it is written: an instance that was read from a replica has the row of the database that the router
    chooses for its writes. After a transition, generated fields are deferred, and `auto_now` times of the state's table
    are those of the transition. Django's ``pre_save`` and ``post_save`` belong to `save()`; `transition_to` sends
    neither.
    """

    transition_effects: ClassVar[Mapping[Any, Mapping[str, Any]]] = {}
    lifecycle_fields: ClassVar[tuple[str, ...]] = ()
    state_field: ClassVar[str] = ""
    transition_signal: ClassVar[Signal | None] = None

    # Never mutated: copies of an instance share it.
    _loaded: Mapping[str, Any] = {}
    # The database that `_loaded` was read from (its row is that of `_home()`), and the key.
    _origin: tuple[str | None, Any] | None = None
    # The state that transition_to(save=False) has prepared for save().
    _prepared: State | None = None

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any) -> Self:
        instance = super().from_db(db, field_names, values, **options)
        instance._remember(None)
        return instance

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        machine = machine_of(type(self))
        if fields is not None:
            fields = attributes(type(self), fields)
            if machine.field in fields and machine.journal is not None:
                # A new state with the old version would look like a row that has changed since.
                fields = list({*fields, machine.journal.version})
        home, alias = self._home(), self._state.db
        ours = fields is None or not {*machine.guarded, *machine.generated}.isdisjoint(fields)
        if using is None and from_queryset is None and ours:
            # A replica may lag behind the write that made this instance stale.
            using = home
        super().refresh_from_db(using=using, fields=fields, from_queryset=from_queryset)
        if fields is not None and alias is not None and self._home() == home:
            self._state.db = alias  # the same row by another alias: what was loaded before is still its
        self._remember(fields)

    def can_transition_to(self, new: object) -> bool:
        """Tell whether the map has an edge from this instance's state; False for an unknown state."""
        machine = machine_of(type(self))
        self._settle_defaults(machine)
        try:
            return machine.graph.has_edge(getattr(self, machine.field), machine.state(new))
        except TransitionError:
            return False

    def valid_targets(self) -> tuple[State, ...]:
        """Return the states that this instance may change to, in the order of the map; for buttons and forms."""
        machine = machine_of(type(self))
        return machine.graph.targets(getattr(self, machine.field))

    def transition_to(self, new: object, save: bool = True, *, reason: str = "", actor: object = None) -> bool:
        """Change to another state; return True.

        One UPDATE writes the state and the transition's effects, on condition that the row has the state (and version)
        that this instance was loaded with. Other changed attributes wait for `save()`. With ``save=False`` the
        transition waits for the next `save()` too, under the same condition.

        Raises UnknownState, InvalidTransition (the map has no such edge), StaleTransition (the row has changed),
        MissingRow or UnsavedInstance; the instance is then unchanged.
        """
        machine, pk = machine_of(type(self)), self.pk
        if machine.defaulted:
            self._settle_defaults(machine)
        target, source = machine.state(new), getattr(self, machine.field)
        machine.check(pk=pk, source=source, target=target)
        changes = machine.changes(target, at=timezone.now(), actor=actor_name(actor), reason=str(reason))
        if not save:
            self._assign(self._resolved(changes, self.__dict__))
            self._prepared = target
            return True
        if self._state.adding:
            raise UnsavedInstance(str(self._meta.verbose_name))
        using = self._home()
        loaded = self._baseline(using)
        expected = loaded.get(machine.field, source)
        if expected != source:
            machine.check(pk=pk, source=expected, target=target)
        version = loaded.get(machine.journal.version) if machine.journal else None
        values = self._resolved(changes, loaded)
        GuardedUpdate.of(type(self), target, using).run(self, expected, version, changes)
        self._assign(values)
        self._state.db = using
        self._loaded, self._origin, self._prepared = {**loaded, **machine.snapshot(values)}, (using, pk), None
        for name in machine.generated:
            self.__dict__.pop(name, None)
        self._announce(expected, target, machine, using)
        return True

    async def atransition_to(self, new: object, save: bool = True, *, reason: str = "", actor: object = None) -> bool:
        """Do `transition_to` from asynchronous code."""
        return await sync_to_async(self.transition_to)(new, save, reason=reason, actor=actor)

    def save(  # noqa: DJ012  # next to transition_to(), which has the same rules
        self,
        *args: Any,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Any = None,
    ) -> None:
        """Save; a changed state is a transition, with its effects and under the conditions of `transition_to`.

        Effects on attributes that the caller has set are not applied. Raises what `transition_to` raises.
        """
        if args:
            # Django 5.2 still accepts these as positional arguments, in this order.
            names = ("force_insert", "force_update", "using", "update_fields")
            return self.save(**dict(zip(names, args, strict=False)))
        machine = machine_of(type(self))
        if machine.defaulted:
            self._settle_defaults(machine)
        using = using or self._home()
        before = {name: self.__dict__[name] for name in machine.guarded if name in self.__dict__}
        # Asked before the save, which makes ``using`` the database of the instance.
        is_known = self._is_of(using)
        source: Any = None
        try:
            if machine.field in before and (update_fields is None or machine.field in update_fields):
                source, update_fields = self._prepare_save(machine, using, bool(force_insert), update_fields)
            self._super_save(force_insert, force_update, using, update_fields)
        except BaseException:
            for name in machine.guarded.difference(before):
                self.__dict__.pop(name, None)  # effects on deferred attributes
            self.__dict__.update(before)
            raise
        written = None if update_fields is None else attributes(type(self), update_fields)
        self._remember(written, is_known=is_known)
        if source is not None:
            self._announce(source, getattr(self, machine.field), machine, using)
        return None

    def _prepare_save(
        self, machine: Machine, using: str, inserting: bool, update_fields: Any
    ) -> tuple[State | None, Any]:
        """Check a state to be saved and apply its effects; return its source, if it changed, and what to write."""
        target = machine.state(self.__dict__[machine.field])
        self.__dict__[machine.field] = target
        loaded = self._baseline(using)
        source = loaded.get(machine.field, target)
        if inserting or source == target:
            return None, update_fields
        machine.check(pk=self.pk, source=source, target=target, saving=True)
        changes = machine.changes(target, at=timezone.now(), actor="", reason="")
        if self._prepared != target:
            self._assign(self._resolved(self._not_chosen(changes, machine, loaded), loaded))
        return source, update_fields if update_fields is None else {*update_fields, *changes}

    def _super_save(self, force_insert: Any, force_update: bool, using: str, update_fields: Any) -> None:
        connection = connections[using]
        broken_before = connection.in_atomic_block and connection.needs_rollback
        try:
            super().save(force_insert=force_insert, force_update=force_update, using=using, update_fields=update_fields)
        except TransitionError as error:
            # The UPDATE matched no row: there is nothing to roll back, and the caller's transaction can go on. Unless
            # the model has parent tables, one of which may have been written before.
            given_up = broken_before or isinstance(error.__cause__, DatabaseError)
            concrete: Any = self._meta.concrete_model
            if connection.in_atomic_block and not given_up and not concrete._meta.parents:
                connection.needs_rollback = False
            raise

    def _do_update(  # type: ignore[override]  # noqa: PLR0917  # one signature for Django 5.2 and 6
        self,
        base_qs: Any,
        using: str,
        pk_val: Any,
        values: Any,
        update_fields: Any,
        forced_update: bool,
        *rest: Any,
        **named: Any,
    ) -> Any:
        # Private to Django, and the only place where a save's UPDATE can be made conditional without another query.
        # Django 6 has one more argument; another override may pass it, or any other, by name.
        machine = machine_of(type(self))
        state_field = self._meta.get_field(machine.field)
        if state_field.model._meta.concrete_model is not base_qs.model._meta.concrete_model:
            return super()._do_update(base_qs, using, pk_val, values, update_fields, forced_update, *rest, **named)
        loaded = self._baseline(using)
        plan = plan_save(machine, loaded=loaded, values={field.attname: value for field, _, value in values})
        written = [value for value in values if value[0].attname in plan.written]
        try:
            # Building the query in the ORM costs more than all the rest of a save.
            plain = not (any(rest) or any(named.values()) or self._meta.select_on_save or base_qs.query.where)
            # The override of another base, which may add conditions, gets its turn.
            is_last = getattr(super()._do_update, "__func__", None) is models.Model._do_update
            direct = plan.knows_state and written and plain and is_last
            matched = update_directly(base_qs.model, pk_val, written, plan.conditions, using=using) if direct else None
            if matched is None:
                rows = matching(base_qs, plan.conditions)
                done: Any = super()._do_update(
                    rows, using, pk_val, written, update_fields, forced_update, *rest, **named
                )
            else:
                # The returned values of each row, of which there are none.
                done = [()] * matched
        except DatabaseError as error:
            if conflict := self._expected_row(machine, pk_val, using, loaded).conflict(error):
                raise conflict from error
            raise
        if done:
            self._forget((*plan.reread, *machine.generated))
        elif plan.conditions or (plan.knows_state and not (update_fields or forced_update)):
            self._raise_if_refused(self._expected_row(machine, pk_val, using, loaded).refusal(), machine, plan)
        return done

    def _do_insert(self, manager: Any, using: str, fields: Any, returning_fields: Any, raw: bool) -> Any:
        insert: Any = super()._do_insert  # type: ignore[misc]  # private, so not in the stubs
        # Fixtures call Model.save_base() past every override, so this is where a raw save can be recognised.
        if not raw or self._is_initial():
            return insert(manager, using, fields, returning_fields, raw)
        with restoring_rows([manager.model], using=using):
            return insert(manager, using, fields, returning_fields, raw)

    def _is_initial(self) -> bool:
        machine = machine_of(type(self))
        return machine.graph.initial is None or self.__dict__.get(machine.field) in machine.graph.initial

    def _expected_row(self, machine: Machine, pk: Any, using: str, loaded: Mapping[str, Any]) -> ExpectedRow:
        expected = loaded.get(machine.field)
        return ExpectedRow(model=type(self), pk=pk, field=machine.field, using=using, expected=expected)

    def _raise_if_refused(self, refusal: StaleTransition, machine: Machine, plan: SavePlan) -> None:
        """Raise the refusal, or InvalidTransition if it is the map that refuses.

        Do nothing if the instance was not loaded and has no row: Django then inserts it. Nor if the row is there and
        met all our conditions: then it was another base or manager that left it out.
        """
        if not plan.conditions and not isinstance(refusal, MissingRow):
            return
        if not plan.knows_state:
            if isinstance(refusal, MissingRow):
                return
            if machine.field in plan.written and refusal.found is not None:
                target = getattr(self, machine.field)
                machine.check(pk=self.pk, source=refusal.found, target=target, saving=True)
        raise refusal

    def _resolved(self, changes: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes as plain values; increments start from ``before``."""
        if Effect.INCREMENT not in changes.values():
            return dict(changes)
        return {
            name: (before[name] if name in before else getattr(self, name)) + 1 if value is Effect.INCREMENT else value
            for name, value in changes.items()
        }

    def _assign(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            try:
                setattr(self, name, value)
            except Exception:  # whatever a protected field or a property raises
                # The protection is against other writers: what a transition writes is what the row has.
                self.__dict__[name] = value

    def _not_chosen(self, changes: Mapping[str, Any], machine: Machine, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes without those of attributes that the caller has set."""
        journal = machine.journal
        always = (machine.field, *((journal.version, journal.actor, journal.reason) if journal else ()))
        mine = {name for name in changes if name in self.__dict__ and self.__dict__[name] != loaded.get(name)}
        return {name: value for name, value in changes.items() if name in always or name not in mine}

    def _settle_defaults(self, machine: Machine) -> None:
        """Give a new instance the constants that its columns have as ``db_default``: no transition starts from SQL."""
        for name in machine.defaulted:
            if name in self.__dict__:
                self.__dict__[name] = literal_default(self.__dict__[name])

    def _baseline(self, using: str) -> Mapping[str, Any]:
        """Return what this instance was loaded with; nothing if it is new or now belongs to another row or database."""
        return self._loaded if not self._state.adding and self._is_of(using) else {}

    def _is_of(self, using: str) -> bool:
        """Tell whether what was loaded describes the row in a database, read there or from a replica of it."""
        if self._origin is None or self._origin[1] != self.pk:
            return False
        alias = self._origin[0]
        return alias == using or (alias == self._state.db and self._home() == using)

    def _home(self) -> str:
        """Return the database that this instance is written to, as Django's `save()` chooses it."""
        return router.db_for_write(type(self), instance=self)

    def _remember(self, fields: Collection[str] | None, *, is_known: bool = False) -> None:
        """Remember the present values of these fields (None: all) as those of the row.

        What is remembered of other fields stays, if it is of the same row; ``is_known``: it is, though read elsewhere.
        """
        machine = machine_of(type(self))
        origin = (self._state.db, self.pk)
        names = machine.guarded if fields is None else [name for name in machine.guarded if name in fields]
        now = machine.snapshot({name: self.__dict__[name] for name in names if name in self.__dict__})
        earlier = self._loaded if fields is not None and (is_known or self._origin == origin) else {}
        self._loaded, self._origin = {**earlier, **now}, origin
        if machine.field in names:
            self._prepared = None

    def _forget(self, names: Collection[str]) -> None:
        """Make attributes deferred, so that their next use reads the row."""
        if not names:
            return
        for name in names:
            self.__dict__.pop(name, None)
        self._loaded = {name: value for name, value in self._loaded.items() if name not in names}

    def _announce(self, source: State, target: State, machine: Machine, using: str) -> None:
        if not has_audience(type(self)):
            return
        journal, pk = machine.journal, self.pk
        at: datetime = getattr(self, journal.at) if journal else timezone.now()
        actor: str = getattr(self, journal.actor) if journal else ""
        reason: str = getattr(self, journal.reason) if journal else ""

        def made() -> tuple[Transition]:
            return (Transition(pk=pk, source=source, target=target, at=at, actor=actor, reason=reason),)

        send_transitions(type(self), made, using=using)
