"""System checks: mistakes in declared state machines, and triggers that differ from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004  # Django's name for it
from django.core.exceptions import FieldDoesNotExist
from django.db import NotSupportedError, connections
from django.db.models import AutoField, Field, Model

from .constraint import TransitionConstraint
from .field_checks import (
    check_effects,
    check_journal_shared,
    check_journal_types,
    check_managers,
    check_state_field,
    check_table,
)
from .graph import GraphError, plain
from .installation import drift, guarded_models, has_table
from .journal import JournalTable, TransitionJournal
from .machine import own_guards
from .model import StateMachineModel
from .trigger_constraint import LONGEST_NAME, trigger_constraints
from .triggers import dialect_for, dialect_of


@register(Tags.models)
def check_machines(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check every model with a state machine, or with a base that needs one."""
    configs = apps.get_app_configs() if app_configs is None else app_configs
    models = [model for config in configs for model in config.get_models()]
    return [message for model in models for message in (_proxy(model) if model._meta.proxy else _problems(model))]


def _proxy(model: type[Model]) -> Iterator[CheckMessage]:
    """Check a proxy that moves a machine of its own; everything else is the model's."""
    if issubclass(model, StateMachineModel) and "state_field" in vars(model):
        yield from _machine(model)


def _problems(model: type[Model]) -> Iterator[CheckMessage]:
    yield from _long_names(model)
    yield from check_managers(model)
    missing = list(_missing_fields(model))
    yield from missing
    if missing:
        return  # the other checks need these fields
    unguarded = list(check_table(model))
    yield from unguarded
    if unguarded:
        return
    for constraint in trigger_constraints(model):
        if isinstance(constraint, TransitionConstraint):
            yield from _odd_choices(model, constraint)
            yield from check_state_field(model, constraint)
        if isinstance(constraint, TransitionJournal):
            yield from check_journal_shared(model, constraint)
            yield from _journal(model, constraint)
    if issubclass(model, StateMachineModel):
        yield from _machine(model)


def _long_names(model: type[Model]) -> Iterator[CheckMessage]:
    for constraint in trigger_constraints(model):
        if len(constraint.name.encode()) > LONGEST_NAME:
            yield Error(
                f"The name {constraint.name!r} is longer than {LONGEST_NAME} bytes: databases would truncate the "
                "suffixes that distinguish its triggers.",
                hint="Give the constraint a shorter name.",
                obj=model,
                id="statemachine.E007",
            )


def _missing_fields(model: type[Model]) -> Iterator[CheckMessage]:
    for constraint in trigger_constraints(model):
        for name in constraint.fields():
            if _field(model, name) is None:
                yield Error(
                    f"{constraint.name} names {name!r}, which is no field of the model with a column.",
                    hint="A renamed field needs its new name in the constraint too; makemigrations then sees both.",
                    obj=model,
                    id="statemachine.E005",
                )


def _odd_choices(model: type[Model], constraint: TransitionConstraint) -> Iterator[CheckMessage]:
    field: Any = model._meta.get_field(constraint.field)
    choices = {value for value, _label in field.flatchoices}
    if choices and choices ^ set(constraint.graph.states):
        odd = ", ".join(sorted(map(repr, choices ^ set(constraint.graph.states))))
        yield Error(
            f"The map of {constraint.name} and the choices of {constraint.field!r} differ in {odd}.",
            hint="Give every status a line in the map and a choice.",
            obj=model,
            id="statemachine.E001",
        )


def _machine(model: type[StateMachineModel]) -> Iterator[CheckMessage]:
    guards = own_guards(model)
    if len(guards) != 1:
        yield Error(
            f"A StateMachineModel needs exactly one TransitionConstraint, this one has {len(guards)}.",
            hint="Put it into Meta.constraints; a model without a machine needs another base. Of several constraints, "
            "name the field of one as state_field, and move each of the others through a proxy.",
            obj=model,
            id="statemachine.E004",
        )
        return
    texts = [*_wrong_effects(model, guards[0])]
    if not texts:
        yield from check_effects(model, guards[0])
    texts += [
        f"lifecycle_fields names {name!r}, which is no field of the model with a column."
        for name in model.lifecycle_fields
        if _field(model, name) is None
    ]
    yield from (Error(text, obj=model, id="statemachine.E006") for text in texts)


def _wrong_effects(model: type[StateMachineModel], guard: TransitionConstraint) -> Iterator[str]:
    owner = model._meta.get_field(guard.field).model
    for state, changes in model.transition_effects.items():
        try:
            known = plain(state) in guard.graph.edges
        except GraphError:
            known = False
        if not known:
            yield f"transition_effects names {state!r}, which is no state of {guard.name}."
        for name in changes:
            field = _field(model, name)
            if field is None:
                yield f"transition_effects names {name!r}, which is no field of the model with a column."
            elif field.model is not owner:
                yield f"transition_effects names {name!r}, which is not in the table of {guard.field!r}."


def _journal(model: type[Model], journal: TransitionJournal) -> Iterator[CheckMessage]:
    """Yield what is wrong with the journal's table, if it has a model."""
    tables = {other._meta.db_table: other for other in model._meta.apps.get_models()}
    table = tables.get(journal.table_of(model))
    yield from check_journal_types(model, journal, table)
    if table is None:
        yield Error(
            f"{journal.name} writes to {journal.table_of(model)!r}, which is no model's table.",
            hint="If the table has another name now, give it to the constraint too; makemigrations then sees both. "
            "A table that Django does not create needs a model with managed = False.",
            obj=model,
            id="statemachine.E008",
        )
        return
    columns = {field.column: field for field in table._meta.concrete_fields}
    filled = journal.columns()
    texts = [f"It has no column {name!r}." for name in filled if name not in columns]
    texts += [f"Nothing fills its column {name!r}." for name, f in columns.items() if name not in filled and _empty(f)]
    for text in texts:
        yield Error(
            f"{table._meta.label} cannot be the journal of {model._meta.label}. {text}",
            hint="The database writes the journal: what it does not fill must be null or have a db_default.",
            obj=table,
            id="statemachine.E008",
        )
    if not any(isinstance(constraint, JournalTable) for constraint in trigger_constraints(table)):
        yield Warning(
            f"{table._meta.label} is a journal without a JournalTable: on SQLite no migration can rebuild it.",
            hint="Add JournalTable(name=…) to its Meta.constraints.",
            obj=table,
            id="statemachine.W001",
        )


def _empty(field: Field[Any, Any]) -> bool:
    """Tell whether an INSERT that does not name the column fails."""
    return not (field.null or isinstance(field, AutoField) or field.has_db_default() or field.generated)


def _field(model: type[Model], name: str) -> Field[Any, Any] | None:
    try:
        field: Any = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if getattr(field, "column", None) else None


@register(Tags.database)
def check_triggers(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Compare the installed triggers with the declared ones, for ``check --database ALIAS``."""
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if not (guarded := guarded_models(alias, app_configs)):
            continue
        try:
            dialect_for(connections[alias])
        except NotSupportedError as error:
            messages.append(Error(str(error), obj=alias, id="statemachine.E002"))
            continue
        for model in guarded:
            if not has_table(model, alias):
                continue
            try:
                names = drift(model, alias)
            except (FieldDoesNotExist, NotSupportedError):
                continue  # E005 or E040 reports it
            if names:
                messages.append(
                    # No error: that would prevent "migrate", which is the remedy.
                    Warning(
                        f"The triggers of {model._meta.label} in database {alias!r} are missing or differ from its "
                        f"map: {', '.join(names)}.",
                        hint=f"Run 'manage.py migrate --database {alias}'; if the map has changed, "
                        "'manage.py makemigrations' before it.",
                        obj=model,
                        id="statemachine.W003",
                    )
                )
    return messages


@register(Tags.database)
def check_time_zones(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Report databases with a journal that store times in a zone whose UTC offset changes."""
    messages: list[CheckMessage] = []
    for alias in databases or ():
        constraints = [c for model in guarded_models(alias, app_configs) for c in trigger_constraints(model)]
        dialect = dialect_of(connections[alias])
        if dialect is None or not any(isinstance(constraint, TransitionJournal) for constraint in constraints):
            continue
        try:
            _ = dialect.utc_offset
        except NotSupportedError as error:
            messages.append(
                Error(
                    f"Database {alias!r}: {error}",
                    hint="Set USE_TZ = True and no TIME_ZONE in DATABASES (times are then stored in UTC), or name a "
                    "zone without daylight saving time. PostgreSQL stores absolute times and accepts any zone.",
                    obj=alias,
                    id="statemachine.E040",
                )
            )
    return messages
