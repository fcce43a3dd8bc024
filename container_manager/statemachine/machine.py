"""A model's state machine, read from its constraints once: the graph, the fields, and what a transition writes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models import BaseConstraint, F, Field, Model
from django.db.models.fields.files import FieldFile

from .constraint import TransitionConstraint
from .exceptions import InvalidTransition, UnknownState
from .graph import Graph, GraphError, State, plain
from .journal import TransitionJournal
from .triggers.dialect import VERSIONS

# The values of these fields are never changed in place.
_IMMUTABLE_FIELDS = frozenset({
    models.AutoField, models.BigAutoField, models.SmallAutoField,
    models.IntegerField, models.BigIntegerField, models.SmallIntegerField,
    models.PositiveIntegerField, models.PositiveBigIntegerField, models.PositiveSmallIntegerField,
    models.BooleanField, models.FloatField, models.DecimalField,
    models.CharField, models.TextField, models.SlugField, models.EmailField, models.URLField,
    models.DateTimeField, models.DateField, models.TimeField, models.DurationField,
    models.UUIDField, models.GenericIPAddressField, models.ForeignKey, models.OneToOneField,
})  # fmt: skip


class Effect(Enum):
    """What a transition writes to a column, if that is not a constant."""

    NOW = "the time of the transition"
    INCREMENT = "one more than before"
    NEW_VERSION = "a number that no other transition has"


class Transition(NamedTuple):
    """One committed change of state."""

    pk: Any
    source: State
    target: State
    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A model's state machine.

    ``effects``: all that a transition to a state writes, by attribute (``shelf_id``): the state, the model's
    ``transition_effects``, the journal's marks, and the ``auto_now`` times of the same table. Every statement that
    changes a state derives its columns from them. ``varying``: by state, those that are not the same object each time.
    ``guarded``: the attributes that a save writes only if the instance changed them; ``mutable``: those of them whose
    values can be changed in place; ``defaulted``: those with a ``db_default``. ``marks``: those that identify the last
    transition (version, time, actor, reason). ``generated``: the attributes that the database computes. ``others``: the
    states of the table's other machines.
    """

    graph: Graph
    field: str
    journal: TransitionJournal | None
    effects: Mapping[State, Mapping[str, Any]]
    guarded: frozenset[str]
    marks: tuple[str, ...]
    defaulted: tuple[str, ...]
    mutable: frozenset[str]
    varying: Mapping[State, tuple[str, ...]]
    generated: tuple[str, ...]
    others: tuple[str, ...] = ()

    def state(self, value: object) -> State:
        """Return a value as a state of the graph.

        Raises UnknownState.
        """
        try:
            state = plain(value)
        except GraphError:
            raise UnknownState(value, self.graph.states) from None
        if state not in self.graph.edges:
            raise UnknownState(value, self.graph.states)
        return state

    def check(self, *, pk: Any, source: State, target: State, saving: bool = False) -> None:
        """Raise InvalidTransition unless the graph has the edge."""
        if not self.graph.has_edge(source, target):
            allowed = self.graph.targets(source)
            raise InvalidTransition(pk=pk, source=source, target=target, allowed=allowed, saving=saving)

    def changes(self, target: State, *, at: datetime, actor: str, reason: str) -> dict[str, Any]:
        """Return what a transition writes, by attribute; `Effect.INCREMENT` is left for the caller to resolve."""
        changes = dict(self.effects[target])
        for name in self.varying[target]:
            value = changes[name]
            if value is Effect.NOW:
                changes[name] = at
            elif value is Effect.NEW_VERSION:
                changes[name] = new_version()
            else:
                changes[name] = deepcopy(value)
        if self.journal is not None:
            changes[self.journal.actor] = actor
            changes[self.journal.reason] = reason
        return changes

    def snapshot(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return values of attributes such that a change in place does not change them too."""
        if self.mutable.isdisjoint(values):
            return values
        return {name: _frozen(value) if name in self.mutable else value for name, value in values.items()}

    def initial_values(self, state: State, *, at: datetime) -> dict[str, Any]:
        """Return what a new row in a state has, by attribute: no transition led there, so neither marks nor counts."""
        changes = self.changes(state, at=at, actor="", reason="")
        return {
            name: value for name, value in changes.items() if name not in self.marks and value is not Effect.INCREMENT
        }


def new_version() -> int:
    """Return a random version, which identifies a transition.

    Not a counter: after a rollback the next transition would get the same number, and a rolled-back instance would
    match the row. Not `random`: forked processes would draw the same numbers.
    """
    return int.from_bytes(os.urandom(4)) % VERSIONS


def update_values(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes as arguments of ``QuerySet.update()``."""
    return {name: F(name) + 1 if value is Effect.INCREMENT else value for name, value in changes.items()}


@cache
def machine_of(model: type[Model]) -> Machine:
    """Return the machine that the constraints of a model and its parents declare; of several, that of `state_field`.

    Raises ImproperlyConfigured if there is not exactly one, or if a transition would have to write to a second table.
    """
    constraints = constraints_of(model)
    guards = own_guards(model)
    if len(guards) != 1:
        raise ImproperlyConfigured(
            f"{model._meta.label} needs exactly one TransitionConstraint in Meta.constraints, it has {len(guards)}."
        )
    journal = next((c for c in constraints if isinstance(c, TransitionJournal) and c.field == guards[0].field), None)
    declared = {plain(s): e for s, e in getattr(model, "transition_effects", {}).items()}
    marks = _marks(journal)
    named = [name for changes in declared.values() for name in changes]
    others = [c.field for c in constraints if isinstance(c, TransitionConstraint) and c.field != guards[0].field]
    owners = {name: model._meta.get_field(name).model for name in (guards[0].field, *marks, *named, *others)}
    if elsewhere := sorted(name for name, owner in owners.items() if owner is not owners[guards[0].field]):
        raise ImproperlyConfigured(
            f"{model._meta.label}: a transition is one UPDATE of one table, which does not have {', '.join(elsewhere)}."
        )
    lifecycle_fields = (*getattr(model, "lifecycle_fields", ()), *(_written_by_others(model) if others else ()))
    guarded = dict.fromkeys((guards[0].field, *marks, *named, *lifecycle_fields))
    fields: list[Any] = [model._meta.get_field(name) for name in guarded]
    table = owners[guards[0].field]._meta.local_concrete_fields
    auto_now = {
        field.attname: Effect.NOW for field in table if isinstance(field, models.DateTimeField) and field.auto_now
    }
    effects = {
        state: {guards[0].field: state, **auto_now, **_by_attribute(model, declared.get(state, {})), **marks}
        for state in guards[0].graph.states
    }
    return Machine(
        graph=guards[0].graph,
        field=guards[0].field,
        journal=journal,
        effects=effects,
        guarded=frozenset(field.attname for field in fields),
        marks=tuple(marks),
        defaulted=tuple(field.attname for field in fields if field.has_db_default()),
        mutable=frozenset(field.attname for field in fields if type(field) not in _IMMUTABLE_FIELDS),
        varying={s: tuple(name for name, value in changes.items() if _varies(value)) for s, changes in effects.items()},
        generated=tuple(field.attname for field in model._meta.concrete_fields if field.generated),
        others=tuple(others),
    )


def _by_attribute(model: type[Model], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes by attribute instead of field name, with the keys of related objects instead of these."""
    fields: list[Any] = [model._meta.get_field(name) for name in changes]
    return {
        field.attname: getattr(value, field.target_field.attname) if isinstance(value, Model) else value
        for field, value in zip(fields, changes.values(), strict=True)
    }


def attributes(model: type[Model], names: Collection[str]) -> list[str]:
    """Return the attributes of fields that are named as Django allows: by name or by attribute."""
    by_name = _attributes_by_name(model)
    return [by_name.get(name, name) for name in names]


@cache
def _attributes_by_name(model: type[Model]) -> Mapping[str, str]:
    fields: Collection[Field[Any, Any]] = model._meta.concrete_fields
    return {field.name: field.attname for field in fields}


def _varies(value: Any) -> bool:
    """Tell whether each transition needs a value of its own: a time, a version, a copy of what is mutable."""
    if isinstance(value, Effect):
        return value is not Effect.INCREMENT
    return deepcopy(value) is not value


def _frozen(value: Any) -> Any:
    """Return a value that stays as it is when the given one is changed in place."""
    if isinstance(value, FieldFile):
        return value.name  # all that the column has; the file belongs to an instance
    return bytes(value) if isinstance(value, bytearray | memoryview) else deepcopy(value)


def _marks(journal: TransitionJournal | None) -> dict[str, Any]:
    """Return what every transition writes for the journal's trigger, by field name."""
    if journal is None:
        return {}
    return {journal.version: Effect.NEW_VERSION, journal.at: Effect.NOW, journal.actor: "", journal.reason: ""}


def own_guards(model: type[Model]) -> list[TransitionConstraint]:
    """Return the constraints that could declare this class's machine: exactly one, unless it is wrongly configured."""
    guards = [c for c in constraints_of(model) if isinstance(c, TransitionConstraint)]
    chosen = getattr(model, "state_field", "")
    return [c for c in guards if c.field == chosen] if chosen else guards


def _written_by_others(model: type[Model]) -> list[str]:
    """Return the fields that the transitions of all of a table's machines write, by name."""
    constraints = constraints_of(model)
    names = [c.field for c in constraints if isinstance(c, TransitionConstraint)]
    names += [name for c in constraints if isinstance(c, TransitionJournal) for name in _marks(c)]
    for other in model._meta.apps.get_models():
        if other._meta.concrete_model is model._meta.concrete_model:
            names += [name for effects in getattr(other, "transition_effects", {}).values() for name in effects]
            names += getattr(other, "lifecycle_fields", ())
    return names


def constraints_of(model: type[Model]) -> list[BaseConstraint]:
    """Return the constraints of a model and of its parents."""
    # A proxy names its concrete model as a parent too.
    chain = dict.fromkeys([model._meta.concrete_model or model, *model._meta.get_parent_list()])
    return [constraint for link in chain for constraint in link._meta.constraints]


def actor_name(actor: object) -> str:
    """Return how the journal names an actor: a user's name, or else its text."""
    if actor is None:
        return ""
    get_username = getattr(actor, "get_username", None)
    return str(get_username()) if get_username else str(actor)
