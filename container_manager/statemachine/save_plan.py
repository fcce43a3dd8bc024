"""Plan a save's UPDATE: which columns it writes, and what the row must still be for it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from .machine import Machine

_UNKNOWN = object()


class Condition(NamedTuple):
    """A column must have one of these values; None stands for NULL, and is then the only one.

    ``by_key``: no index of the column may be used, so that the row is found by its key.
    """

    name: str
    values: tuple[Any, ...]
    by_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePlan:
    """What to do with a row.

    ``written``: the attributes to write. ``conditions``: all must hold of the row, or nothing is written.
    ``knows_state``: whether the instance was loaded with the row's state. ``reread``: attributes that the database sets
    in this UPDATE, so that the instance no longer knows them.
    """

    written: Set[str]
    conditions: tuple[Condition, ...]
    knows_state: bool
    reread: tuple[str, ...]


def plan_save(machine: Machine, *, loaded: Mapping[str, Any], values: Mapping[str, Any]) -> SavePlan:
    """Plan the UPDATE of a row that was loaded as ``loaded`` and is to be saved as ``values``, by attribute."""
    knows_state = machine.field in loaded
    # Without the row's state the instance does not know its marks either: the trigger sets them.
    reread = () if knows_state or machine.field not in values else machine.marks
    guarded = {
        name
        for name in values.keys() & machine.guarded
        if name not in reread and loaded.get(name, _UNKNOWN) != values[name]
    }
    return SavePlan(
        written=guarded | (values.keys() - machine.guarded),
        conditions=_conditions(machine, loaded, values, guarded) if guarded else (),
        knows_state=knows_state,
        reread=reread,
    )


def _conditions(
    machine: Machine, loaded: Mapping[str, Any], values: Mapping[str, Any], guarded: Set[str]
) -> tuple[Condition, ...]:
    version = machine.journal.version if machine.journal else None
    known = () if version is None or version not in loaded else (Condition(version, (loaded[version],)),)
    others = (name for name in machine.others if name in guarded and name in loaded)
    known = (*known, *(Condition(name, (loaded[name],), by_key=True) for name in others))
    if machine.field in loaded:
        return (Condition(machine.field, (loaded[machine.field],), by_key=True), *known)
    if machine.field in values:
        target = values[machine.field]
        return (Condition(machine.field, (*machine.graph.sources(target), target), by_key=True), *known)
    # The state was not loaded and stays: the columns that change must still be as they were loaded.
    return (
        *(Condition(name, (loaded[name],)) for name in sorted(guarded - {*machine.others}) if name in loaded),
        *known,
    )
