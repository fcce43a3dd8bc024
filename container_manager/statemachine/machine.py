"""What a model's constraints say, looked up once: the graph, the columns, and what a transition changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db.models import BaseConstraint, F, Model

from .constraint import TransitionConstraint
from .exceptions import InvalidTransition, UnknownState
from .graph import Graph, GraphError, State, plain
from .journal import TransitionJournal
from .triggers.dialect import VERSIONS


class Effect(Enum):
    """What a transition does to a column, where it is not a plain value."""

    NOW = "the time of the transition"
    INCREMENT = "one more than before"


class Transition(NamedTuple):
    """One change of state that was committed."""

    pk: Any
    source: State
    target: State
    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A model's state machine.

    ``guarded`` are the attributes that are written only where this instance changed them; ``marks`` those of them
    that say which change was the last one.
    """

    graph: Graph
    field: str
    journal: TransitionJournal | None
    effects: Mapping[State, Mapping[str, Any]]
    guarded: frozenset[str]
    marks: tuple[str, ...]

    def state(self, value: object) -> State:
        """Return the known state a value stands for.

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
        """Raise InvalidTransition where the map has no such edge."""
        if not self.graph.has_edge(source, target):
            allowed = self.graph.targets(source)
            raise InvalidTransition(pk=pk, source=source, target=target, allowed=allowed, saving=saving)

    def changes(self, target: State, *, at: datetime, actor: str, reason: str) -> dict[str, Any]:
        """Return what a transition writes, by field name; `Effect.INCREMENT` stays as it is."""
        changes: dict[str, Any] = {self.field: target}
        for name, effect in self.effects.get(target, {}).items():
            changes[name] = at if effect is Effect.NOW else effect
        if self.journal is not None:
            changes[self.journal.version] = new_version()
            changes[self.journal.at] = at
            changes[self.journal.actor] = actor
            changes[self.journal.reason] = reason
        return changes


def new_version() -> int:
    """Return a version that no other transition has.

    Not a counter: after a rollback the same number would come again, and the instance that was rolled back would pass
    for the one that holds the row. Not `random`: forked processes would draw the same numbers.
    """
    return int.from_bytes(os.urandom(4)) % VERSIONS


def update_values(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn changes into arguments of ``QuerySet.update()``."""
    return {name: F(name) + 1 if value is Effect.INCREMENT else value for name, value in changes.items()}


@cache
def machine_of(model: type[Model]) -> Machine:
    """Return the machine that a model's constraints (or its parents') declare.

    Raises ImproperlyConfigured where there is none, or more than one, or where a transition would have to write to
    another table than the state's.
    """
    constraints = constraints_of(model)
    guards = [c for c in constraints if isinstance(c, TransitionConstraint)]
    if len(guards) != 1:
        raise ImproperlyConfigured(
            f"{model._meta.label} needs exactly one TransitionConstraint in Meta.constraints, it has {len(guards)}."
        )
    journal = next((c for c in constraints if isinstance(c, TransitionJournal) and c.field == guards[0].field), None)
    effects = {plain(s): e for s, e in getattr(model, "transition_effects", {}).items()}
    marks = (journal.version, journal.at, journal.actor, journal.reason) if journal else ()
    named = [name for changes in effects.values() for name in changes]
    owners = {name: model._meta.get_field(name).model for name in (guards[0].field, *marks, *named)}
    if elsewhere := sorted(name for name, owner in owners.items() if owner is not owners[guards[0].field]):
        raise ImproperlyConfigured(
            f"{model._meta.label}: a transition is one UPDATE of one table, which does not have {', '.join(elsewhere)}."
        )
    guarded = dict.fromkeys((guards[0].field, *marks, *named, *getattr(model, "lifecycle_fields", ())))
    fields: list[Any] = [model._meta.get_field(name) for name in guarded]
    attnames = frozenset(field.attname for field in fields)
    return Machine(
        graph=guards[0].graph, field=guards[0].field, journal=journal, effects=effects, guarded=attnames, marks=marks
    )


def constraints_of(model: type[Model]) -> list[BaseConstraint]:
    """Return the constraints of a model and of its parents."""
    # A proxy names its concrete model as a parent too.
    chain = dict.fromkeys([model._meta.concrete_model or model, *model._meta.get_parent_list()])
    return [constraint for link in chain for constraint in link._meta.constraints]


def actor_name(actor: object) -> str:
    """Return the text the journal keeps of an actor: a user's name, or the text itself."""
    if actor is None:
        return ""
    get_username = getattr(actor, "get_username", None)
    return str(get_username()) if get_username else str(actor)
