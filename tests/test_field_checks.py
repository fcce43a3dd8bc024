"""What no trigger could hold is an error of the system checks, each with an id and a hint of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import models
from django.db.models.functions import Lower, Now
from django.test.utils import isolate_apps

from container_manager.statemachine import Effect, JournalTable, TransitionConstraint, TransitionJournal
from container_manager.statemachine.checks import check_machines
from container_manager.statemachine.model import StateMachineModel
from container_manager.statemachine.queryset import StateMachineQuerySet
from container_manager.statemachine.triggers.sqlite import SQLiteDialect


@pytest.fixture
def registry() -> Iterator[Any]:
    with isolate_apps("tests.machines") as registry:
        yield registry


def found(registry: Any) -> list[tuple[str, str]]:
    messages = check_machines(registry.get_app_configs())
    assert all(message.hint for message in messages if str(message.id) >= "statemachine.E020")
    return [(str(message.id).removeprefix("statemachine."), message.msg) for message in messages]


def guard(**options: Any) -> TransitionConstraint:
    given = {"field": "status", "transitions": {"a": ["b"], "b": []}, "name": "any", **options}
    return TransitionConstraint(**given)


def journal(**options: Any) -> TransitionJournal:
    given = {"field": "status", "table": "lines", "name": "any_journal", "subject": "thing_id", "version": "version", "at": "at", "actor": "actor", "reason": "reason", **options}  # fmt: skip
    return TransitionJournal(**given)


def declare(
    name: str, *constraints: models.BaseConstraint, base: Any = models.Model, meta: Any = None, **attributes: Any
) -> Any:
    """Declare a model with a status, unless it is given."""
    options = {"app_label": "machines", "constraints": list(constraints), **(meta or {})}
    body = {"__module__": __name__, "Meta": type("Meta", (), options), **attributes}
    return type(name, (base,), body)


def word(**options: Any) -> Any:
    return models.CharField(max_length=5, **options)


def test_an_unmanaged_model_is_an_error(registry: Any) -> None:
    declare("Thing", guard(), status=word(), meta={"managed": False})
    text = "The table of machines.Thing is not managed, so nothing installs the triggers of any."
    assert found(registry) == [("E020", text)]


def test_a_composite_primary_key_is_an_error(registry: Any) -> None:
    key = models.CompositePrimaryKey("first", "second")
    numbers = {"first": models.IntegerField(), "second": models.IntegerField()}
    declare("Thing", guard(), status=word(), pk=key, **numbers)
    text = "any: the primary key of machines.Thing has several columns, and triggers follow one."
    assert found(registry) == [("E021", text)]


def test_a_constraint_on_an_inherited_field_is_an_error(registry: Any) -> None:
    parent = declare("Thing", status=word())
    declare("Child", guard(), base=parent)
    text = "any names 'status', which machines.Child inherits: the column is in the table of a parent."
    assert found(registry) == [("E022", text)]


def test_a_constraint_of_an_abstract_base_is_not_an_error(registry: Any) -> None:
    base = declare("Base", guard(name="any_%(class)s"), status=word(), meta={"abstract": True})
    declare("Thing", base=base)
    # Meta.constraints of its own, as an inherited one.
    assert found(registry) == []


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (models.ForeignKey("machines.Thing", models.CASCADE, related_name="+"), "a relation"),
        (models.OneToOneField("machines.Thing", models.CASCADE, related_name="+"), "a relation"),
        (
            models.GeneratedField(expression=Lower("word"), output_field=word(), db_persist=True),
            "generated",
        ),
        (word(primary_key=True), "the primary key"),
        (models.JSONField(), "a JSONField"),
        (models.BooleanField(), "a BooleanField"),
        (models.FloatField(), "a FloatField"),
        (models.DateField(), "a DateField"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_field_that_cannot_hold_a_state_is_an_error(registry: Any, field: Any, reason: str) -> None:
    declare("Thing", guard(), status=field.clone(), word=word())
    assert found(registry) == [("E023", f"any: 'status' cannot hold a state, since it is {reason}.")]


def test_texts_in_an_integer_column_and_integers_in_a_text_column_are_errors(registry: Any) -> None:
    declare("Thing", guard(name="one"), status=models.PositiveIntegerField())
    declare("Other", guard(name="two", transitions={1: [2], 2: []}), status=models.TextField())
    assert found(registry) == [
        ("E024", "one: a state is text, and 'status' holds an integer."),
        ("E024", "two: a state is an integer, and 'status' holds text."),
    ]


def test_states_without_room_in_the_field_are_errors(registry: Any) -> None:
    states: Any = {"a": ["longer"], "longer": ["longest"], "longest": []}
    declare("Thing", guard(name="one", transitions=states), status=word())
    declare("Other", guard(name="two", transitions={1: [40_000], 40_000: []}), status=models.SmallIntegerField())
    declare("Third", guard(name="three", transitions={-1: [1], 1: []}), status=models.PositiveIntegerField())
    assert found(registry) == [
        ("E025", "one: 'status' has no room for 'longer', 'longest'."),
        ("E025", "two: 'status' has no room for 40000."),
        ("E025", "three: 'status' has no room for -1."),
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"default": "x"}, "default 'x' is no state that a new row may have"),
        ({"default": "b"}, "default 'b' is no state that a new row may have"),
        ({"default": None, "null": True}, "default None is no state that a new row may have"),
        ({"db_default": "b"}, "db_default 'b' is no state that a new row may have"),
        ({"db_default": models.Value("x")}, "db_default 'x' is no state that a new row may have"),
        ({"db_default": Now()}, "db_default is an expression, which no new instance knows"),
    ],
    ids=str,
)
def test_a_default_that_is_no_initial_state_is_an_error(registry: Any, options: Any, text: str) -> None:
    declare("Thing", guard(initial=["a"]), base=StateMachineModel, status=word(**options))
    assert found(registry) == [("E026", f"any: 'status': the {text}.")]


def test_sound_defaults_pass_the_check(registry: Any) -> None:
    declare("One", guard(name="one", initial=["a"]), status=word(default="a"))
    declare("Two", guard(name="two"), status=word(default="b", db_default="a"))
    declare("Three", guard(name="three"), status=word(default=list))
    declare("Four", guard(name="four"), status=word(db_default=Lower(models.Value("A"))))
    assert found(registry) == []


@pytest.mark.parametrize(
    ("field", "effect", "text"),
    [
        (models.DateField(null=True), Effect.NOW, "E027 Effect.NOW for 'mark' is not for DateField."),
        (word(null=True), Effect.NOW, "E027 Effect.NOW for 'mark' is not for text."),
        (word(), Effect.INCREMENT, "E027 Effect.INCREMENT for 'mark' is not for text."),
        (models.SmallIntegerField(), Effect.NEW_VERSION, "E027 Effect.NEW_VERSION for 'mark' is not for an integer."),
        (models.IntegerField(), "many", "E027 'many' for 'mark' is not for an integer."),
        (word(), "too long", "E027 'too long' for 'mark' is not for text."),
        (
            models.IntegerField(null=True),
            Effect.INCREMENT,
            "E028 Effect.INCREMENT for 'mark' does not go with null=True.",
        ),
        (models.IntegerField(), None, "E028 None for 'mark' does not go with null=False."),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_effect_that_its_field_cannot_take_is_an_error(registry: Any, field: Any, effect: Any, text: str) -> None:
    effects = {"b": {"mark": effect}, "a": {"mark": effect}}
    declare("Thing", guard(), base=StateMachineModel, status=word(), mark=field.clone(), transition_effects=effects)
    number, _, rest = text.partition(" ")
    assert found(registry) == [(number, f"transition_effects: {rest}")]


def test_effects_that_fit_their_fields_pass_the_check(registry: Any) -> None:
    fields = {
        "at": models.DateTimeField(null=True),
        "count": models.IntegerField(default=0),
        "part": models.DecimalField(default=0, max_digits=5, decimal_places=2),
        "version": models.BigIntegerField(default=0),
        "note": word(null=True),
        "extra": models.JSONField(default=list),
    }
    effects = {
        "b": {
            "at": Effect.NOW,
            "count": Effect.INCREMENT,
            "part": Effect.INCREMENT,
            "version": Effect.NEW_VERSION,
            "note": None,
            "extra": [],
        },
        "a": {"at": None, "count": 3, "note": "x"},
    }
    declare("Thing", guard(), base=StateMachineModel, status=word(), transition_effects=effects, **fields)
    assert found(registry) == []


def marks(**others: Any) -> dict[str, Any]:
    fields = {"version": models.IntegerField(default=0), "at": models.DateTimeField(null=True)}
    return {"status": word(), **fields, "actor": word(), "reason": word(), **others}


def line(**others: Any) -> dict[str, Any]:
    texts = {name: word() for name in ("from_status", "to_status", "actor", "reason")}
    key = models.ForeignKey("machines.Thing", models.CASCADE, related_name="+")
    return {"thing": key, "at": models.DateTimeField(), **texts, **others}


def declare_line(**others: Any) -> Any:
    return declare("Line", JournalTable(name="line_table"), meta={"db_table": "lines"}, **line(**others))


def test_effects_on_the_key_the_state_or_a_mark_are_errors(registry: Any) -> None:
    effects = {"b": {"id": 3, "status": "a", "version": 4, "actor": "me"}}
    declare("Thing", guard(), journal(), base=StateMachineModel, transition_effects=effects, **marks())
    declare_line()
    assert found(registry) == [
        ("E029", f"transition_effects: {shown} is the key, the state or a mark of the journal.")
        for shown in ("3 for 'id'", "'a' for 'status'", "4 for 'version'", "'me' for 'actor'")
    ]


@pytest.mark.parametrize(
    ("mark", "field", "text"),
    [
        ("version", models.CharField(max_length=9), "'version' must hold an integer of 32 bits, not text"),
        ("version", models.SmallIntegerField(), "'version' must hold an integer of 32 bits, not an integer"),
        ("at", models.DateField(), "'at' must hold DateTimeField, not DateField"),
        ("actor", models.IntegerField(), "'actor' must hold text, not an integer"),
    ],
)
def test_a_mark_of_the_wrong_type_is_an_error(registry: Any, mark: str, field: Any, text: str) -> None:
    others = {} if mark == "version" else {mark: field.clone()}
    declare("Thing", guard(), journal(), **marks(**{mark: field.clone()}))
    declare_line(**others)
    assert found(registry) == [("E030", f"any_journal: in machines.Thing {text}.")]


@pytest.mark.parametrize(
    ("column", "field", "text"),
    [
        ("thing", models.UUIDField(db_column="thing_id"), "column 'thing_id' must hold an integer, not UUIDField"),
        (
            "thing",
            models.ForeignKey("machines.Other", models.CASCADE, related_name="+"),
            "column 'thing_id' refers to machines.Other",
        ),
        ("from_status", models.IntegerField(), "column 'from_status' must hold text, not an integer"),
        ("to_status", models.CharField(max_length=1), "column 'to_status' has no room for 'b2'"),
        ("at", models.DateField(), "column 'at' must hold DateTimeField, not DateField"),
        ("reason", models.CharField(max_length=4), "column 'reason' is shorter than the model's 'reason'"),
    ],
)
def test_a_journal_column_of_the_wrong_type_is_an_error(registry: Any, column: str, field: Any, text: str) -> None:
    declare("Other")
    declare("Thing", guard(transitions={"a": ["b2"], "b2": []}), journal(), **marks())
    declare_line(**{column: field.clone()})
    assert found(registry) == [("E030", f"any_journal: in machines.Line {text}.")]


def two_things(table: str) -> None:
    constraints = (guard(name="%(class)s_any"), journal(name="%(class)s_journal", table=table))
    base = declare("Base", *constraints, meta={"abstract": True}, **marks())
    declare("Thing", base=base, meta={"constraints": base._meta.constraints})
    declare("Other", base=base, meta={"constraints": base._meta.constraints})


def without_missing_models(registry: Any) -> list[tuple[str, str]]:
    """Return what is found, but for the journals here having no models (E008)."""
    return [message for message in found(registry) if message[0] != "E008"]


def test_a_journal_that_two_models_share_is_an_error(registry: Any) -> None:
    two_things("lines")
    assert without_missing_models(registry) == [
        ("E031", "The journal 'lines' of machines.Thing is also that of machines.Other."),
        ("E031", "The journal 'lines' of machines.Other is also that of machines.Thing."),
    ]


def test_an_abstract_bases_journal_is_one_table_for_each_class(registry: Any) -> None:
    two_things("%(app_label)s_%(class)s_lines")
    assert without_missing_models(registry) == []
    for model in registry.get_models():
        _, written = model._meta.constraints
        [statement] = written.create_statements(model, SQLiteDialect("UTC"))
        assert f'INSERT INTO "machines_{model._meta.model_name}_lines"' in statement


def test_a_state_machine_queryset_of_an_underived_model_is_an_error(registry: Any) -> None:
    declare("Thing", guard(), status=word(), objects=StateMachineQuerySet.as_manager())
    text = "The manager 'objects' needs a StateMachineModel, which machines.Thing is not."
    assert found(registry) == [("E032", text)]
