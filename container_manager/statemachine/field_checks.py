"""What the fields, keys and tables of a model keep a state machine from holding, as system checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ValidationError
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models import Model, Value

from .constraint import TransitionConstraint
from .graph import GraphError, State, plain
from .journal import TransitionJournal
from .machine import Effect
from .model import StateMachineModel
from .queryset import StateMachineQuerySet
from .trigger_constraint import TriggerConstraint, trigger_constraints
from .triggers.dialect import VERSIONS

_TEXTS = frozenset({"CharField", "TextField", "SlugField", "FilePathField"})
# Django's other types. A type that Django does not know is left to its author.
_OTHERS = frozenset(
    {
        *("BinaryField", "BooleanField", "DateField", "DateTimeField", "DecimalField", "DurationField", "FileField"),
        *("FloatField", "GenericIPAddressField", "ImageField", "JSONField", "TimeField", "UUIDField"),
    }
)
_TEXT, _INTEGER, _TIME = "text", "an integer", "DateTimeField"


def check_table(model: type[Model]) -> Iterator[CheckMessage]:
    """Check whether a model's table can have triggers at all."""
    constraints = trigger_constraints(model)
    if not constraints:
        return
    names = ", ".join(constraint.name for constraint in constraints)
    if not model._meta.managed:
        yield Error(
            f"The table of {model._meta.label} is not managed, so nothing installs the triggers of {names}.",
            hint="Let Django manage the table, or remove the constraints.",
            obj=model,
            id="statemachine.E020",
        )
    if len(model._meta.pk_fields) > 1:
        yield Error(
            f"{names}: the primary key of {model._meta.label} has several columns, and triggers follow one.",
            hint="Use a primary key of one column and a UniqueConstraint.",
            obj=model,
            id="statemachine.E021",
        )
    for constraint in constraints:
        inherited = [name for name in constraint.fields() if _foreign(model, name)]
        if inherited:
            yield Error(
                f"{constraint.name} names {', '.join(map(repr, inherited))}, which {model._meta.label} inherits: the "
                "column is in the table of a parent.",
                hint="Put the constraint into the Meta of the parent.",
                obj=model,
                id="statemachine.E022",
            )


def check_state_field(model: type[Model], guard: TransitionConstraint) -> Iterator[CheckMessage]:
    """Check whether the field can hold the states."""
    field: Any = model._meta.get_field(guard.field)
    kind, states = _kind(field), guard.graph.states
    if (reason := _no_state(field)) is not None:
        yield Error(
            f"{guard.name}: {guard.field!r} cannot hold a state, since it is {reason}.",
            hint="Use a CharField, a TextField or an IntegerField.",
            obj=model,
            id="statemachine.E023",
        )
    elif kind in (_TEXT, _INTEGER) and kind != (of := _TEXT if isinstance(states[0], str) else _INTEGER):
        yield Error(
            f"{guard.name}: a state is {of}, and {guard.field!r} holds {kind}.",
            hint="Give the field and the states the same type: databases compare others by rules of their own.",
            obj=model,
            id="statemachine.E024",
        )
    elif unfit := [state for state in states if not _fits(field, state)]:
        yield Error(
            f"{guard.name}: {guard.field!r} has no room for {', '.join(map(repr, unfit))}.",
            hint="Use a longer or a larger field.",
            obj=model,
            id="statemachine.E025",
        )
    yield from _default(model, guard, field)


def check_effects(model: type[StateMachineModel], guard: TransitionConstraint) -> Iterator[CheckMessage]:
    """Check whether the fields can hold what transitions write to them."""
    owner: type[Model] = model._meta.get_field(guard.field).model
    marks = [name for journal in _journals(owner) if journal.field == guard.field for name in journal.fields()]
    reserved = {owner._meta.pk, *(model._meta.get_field(name) for name in (guard.field, *marks))}
    given = [pair for changes in model.transition_effects.values() for pair in changes.items()]
    for name, value in (pair for place, pair in enumerate(given) if pair not in given[:place]):
        field: Any = model._meta.get_field(name)
        text, hint, number = "", "", ""
        if field in reserved:
            text, number = "is the key, the state or a mark of the journal", "statemachine.E029"
            hint = "Only the transition itself writes these."
        elif (value is Effect.INCREMENT and field.null) or (value is None and not field.null):
            text, number = f"does not go with {'null=True' if field.null else 'null=False'}", "statemachine.E028"
            hint = "NULL and one is NULL: count from 0. None needs null=True."
        elif not _holds(field, value):
            text, number = f"is not for {_kind(field)}", "statemachine.E027"
            hint = "NOW is for a DateTimeField, INCREMENT for a number, NEW_VERSION for an integer of 32 bits."
        if text:
            shown = value if isinstance(value, Effect) else repr(value)
            yield Error(
                f"transition_effects: {shown} for {name!r} {text}.",
                hint=hint,
                obj=model,
                id=number,
            )


def check_journal_types(model: type[Model], journal: TransitionJournal, table: type[Model] | None) -> Iterator[Error]:
    """Check whether the model's marks and the journal's columns can hold what the trigger writes."""
    marks = {journal.version: _INTEGER, journal.at: _TIME, journal.actor: _TEXT, journal.reason: _TEXT}
    for name, kind in marks.items():
        field: Any = model._meta.get_field(name)
        if _kind(field) != kind or field.is_relation or (name == journal.version and not _fits(field, VERSIONS - 1)):
            size = " of 32 bits" if name == journal.version else ""
            yield _wrong_type(model, journal, f"{name!r} must hold {kind}{size}, not {_kind(field)}")
    if table is None:
        return
    columns: dict[str | None, Any] = {field.column: field for field in table._meta.concrete_fields}
    states = next((c.graph.states for c in _guards(model) if c.field == journal.field), ())
    sources = {
        journal.subject: model._meta.pk,
        journal.source: model._meta.get_field(journal.field),
        journal.target: model._meta.get_field(journal.field),
        **{name: model._meta.get_field(getattr(journal, name)) for name in ("at", "actor", "reason")},
    }
    for column, source in sources.items():
        if (field := columns.get(column)) is None:
            continue  # E008 reports it
        if _kind(field) != _kind(source):
            yield _wrong_type(table, journal, f"column {column!r} must hold {_kind(source)}, not {_kind(field)}")
        elif column == journal.subject and field.is_relation and not issubclass(model, field.related_model):
            yield _wrong_type(table, journal, f"column {column!r} refers to {field.related_model._meta.label}")
        elif column in (journal.source, journal.target):
            if unfit := [state for state in states if not _fits(field, state)]:
                yield _wrong_type(table, journal, f"column {column!r} has no room for {', '.join(map(repr, unfit))}")
        elif column in ("actor", "reason") and _shorter(field, source):
            yield _wrong_type(table, journal, f"column {column!r} is shorter than the model's {source.name!r}")


def check_journal_shared(model: type[Model], journal: TransitionJournal) -> Iterator[Error]:
    """Check that no other model has the same journal: its lines would not say whose they are."""
    mine = journal.table_of(model)
    others = sorted(
        other._meta.label
        for other in model._meta.apps.get_models()
        if other is not model and not other._meta.proxy and any(j.table_of(other) == mine for j in _journals(other))
    )
    if others:
        yield Error(
            f"The journal {mine!r} of {model._meta.label} is also that of {', '.join(others)}.",
            hint="In an abstract base, put %(class)s into the table's name.",
            obj=model,
            id="statemachine.E031",
        )


def check_managers(model: type[Model]) -> Iterator[Error]:
    """Check that bulk transitions find a model that they understand."""
    if issubclass(model, StateMachineModel):
        return
    for manager in model._meta.managers:
        if issubclass(getattr(manager, "_queryset_class", object), StateMachineQuerySet):
            yield Error(
                f"The manager {manager.name!r} needs a StateMachineModel, which {model._meta.label} is not.",
                hint="Derive the model from StateMachineModel, or the queryset from Django's.",
                obj=model,
                id="statemachine.E032",
            )


def _default(model: type[Model], guard: TransitionConstraint, field: Any) -> Iterator[CheckMessage]:
    """Yield what is wrong with a constant default; a callable is not called."""
    allowed = guard.graph.states if guard.graph.initial is None else guard.graph.initial
    given = []
    if field.has_default() and not callable(field.default):
        given.append(("default", field.default))
    if field.has_db_default():
        expression = field.db_default
        value = expression.value if isinstance(expression, Value) else expression
        if not hasattr(value, "resolve_expression"):
            given.append(("db_default", value))
        elif issubclass(model, StateMachineModel):
            yield _wrong_default(model, guard, "db_default is an expression, which no new instance knows", allowed)
    for option, value in given:
        try:
            wrong = plain(value) not in allowed
        except GraphError:
            wrong = True
        if wrong:
            yield _wrong_default(model, guard, f"{option} {value!r} is no state that a new row may have", allowed)


def _wrong_default(model: type[Model], guard: TransitionConstraint, text: str, allowed: Sequence[State]) -> Error:
    return Error(
        f"{guard.name}: {guard.field!r}: the {text}.",
        hint=f"Use one of {', '.join(map(repr, allowed))}.",
        obj=model,
        id="statemachine.E026",
    )


def _wrong_type(model: type[Model], journal: TransitionJournal, text: str) -> Error:
    return Error(
        f"{journal.name}: in {model._meta.label} {text}.",
        hint="The trigger copies the key, the states and the marks of the row into the journal, as they are.",
        obj=model,
        id="statemachine.E030",
    )


def _no_state(field: Any) -> str | None:
    if field.is_relation:
        return "a relation"
    if field.generated:
        return "generated"
    if field.primary_key:
        return "the primary key"
    kind = _kind(field)
    return f"a {kind}" if kind in _OTHERS else None


def _kind(field: Any) -> str:
    """Return what a field's column holds: text, integers, or the name of its type. A relation holds a key."""
    while field.is_relation:
        field = field.target_field
    if getattr(field, "generated", False):
        field = field.output_field
    internal = str(field.get_internal_type())
    if internal in _TEXTS:
        return _TEXT
    return _INTEGER if internal.endswith(("IntegerField", "AutoField")) else internal


def _fits(field: Any, state: State) -> bool:
    """Tell whether a state of the field's own kind fits into it."""
    while field.is_relation:
        field = field.target_field
    if isinstance(state, str):
        return field.max_length is None or len(state) <= field.max_length
    least, most = BaseDatabaseOperations.integer_field_ranges.get(field.get_internal_type(), (state, state))
    return least <= state <= most


def _shorter(field: Any, source: Any) -> bool:
    longest = field.max_length
    return longest is not None and (source.max_length is None or source.max_length > longest)


def _holds(field: Any, value: Any) -> bool:
    """Tell whether a field can hold what an effect writes."""
    kind = _kind(field)
    if value is Effect.NOW:
        return kind == _TIME
    if value is Effect.INCREMENT:
        return kind in (_INTEGER, "DecimalField", "FloatField") and not field.is_relation
    if value is Effect.NEW_VERSION:
        return kind == _INTEGER and not field.is_relation and _fits(field, VERSIONS - 1)
    if value is None or field.is_relation:
        return True
    try:
        field.to_python(value)
    except ValidationError:
        return False
    return not (isinstance(value, str) and kind == _TEXT) or _fits(field, value)


def _foreign(model: type[Model], name: str) -> bool:
    """Tell whether a field is in the table of a parent."""
    field: Any = model._meta.get_field(name)
    return field not in model._meta.local_fields


def _guards(model: type[Model]) -> list[TransitionConstraint]:
    return [c for c in trigger_constraints(model) if isinstance(c, TransitionConstraint)]


def _journals(model: type[Model]) -> list[TransitionJournal]:
    constraints: Sequence[TriggerConstraint] = trigger_constraints(model)
    return [c for c in constraints if isinstance(c, TransitionJournal)]
