"""The checks name what is wrong and what to do, and doing it mends it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, connections, models
from django.test.utils import isolate_apps

from container_manager.models import ContainerJob
from container_manager.statemachine import Effect, JournalTable, TransitionConstraint, TransitionJournal
from container_manager.statemachine.checks import check_machines, check_triggers
from container_manager.statemachine.model import StateMachineModel
from container_manager.statemachine.trigger_constraint import trigger_constraints
from container_manager.statemachine.triggers import dialect_for

from .jobs import job_in, journal_of

JOBS = "container_manager_containerjob"


class Isolated:
    """A registry of its own for the models of one test."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry

    def messages(self) -> list[CheckMessage]:
        return check_machines(self.registry.get_app_configs())

    def found(self) -> list[tuple[str, str]]:
        return [(str(message.id).removeprefix("statemachine."), message.msg) for message in self.messages()]


@pytest.fixture
def isolated() -> Iterator[Isolated]:
    with isolate_apps("tests.machines") as registry:
        yield Isolated(registry)


def meta(*constraints: models.BaseConstraint, **options: Any) -> Any:
    return type("Meta", (), {"app_label": "machines", "constraints": list(constraints), **options})


def guard(**options: Any) -> TransitionConstraint:
    given = {"field": "status", "transitions": {"a": ["b"], "b": []}, "name": "any", **options}
    return TransitionConstraint(**given)


def journal(**options: Any) -> TransitionJournal:
    given = {"field": "status", "table": "lines", "name": "any_journal", "subject": "thing_id", "version": "version", "at": "at", "actor": "actor", "reason": "reason", **options}  # fmt: skip
    return TransitionJournal(**given)


def test_the_check_finds_nothing_wrong_with_the_projects_own_models() -> None:
    assert check_machines(None) == []


def test_choices_that_differ_from_the_map_are_an_error(isolated: Isolated) -> None:
    class Thing(models.Model):
        status = models.CharField(max_length=5, choices=[("a", "A"), ("c", "C")])
        Meta = meta(guard())

    assert isolated.found() == [("E001", "The map of any and the choices of 'status' differ in 'b', 'c'.")]


def test_grouped_integer_choices_that_match_the_map_pass_the_check(isolated: Isolated) -> None:
    class Thing(models.Model):
        status = models.IntegerField(choices=[("early", [(1, "A")]), ("late", [(2, "B")])])
        Meta = meta(guard(transitions={1: [2], 2: []}))

    assert isolated.found() == []


@pytest.mark.parametrize("count", [0, 2])
def test_a_state_machine_model_without_exactly_one_map_is_an_error(isolated: Isolated, count: int) -> None:
    class Thing(StateMachineModel):
        status = models.CharField(max_length=5)
        Meta = meta(*[guard(name=f"guard{number}") for number in range(count)])

    text = f"A StateMachineModel needs exactly one TransitionConstraint, this one has {count}."
    assert isolated.found() == [("E004", text)]


def test_a_child_model_is_checked_with_its_parents_map_and_a_proxy_is_skipped(isolated: Isolated) -> None:
    class Thing(StateMachineModel):
        status = models.CharField(max_length=5)
        Meta = meta(guard())

    class Child(Thing):
        extra = models.CharField(max_length=5)
        Meta = meta()

    class Proxy(Thing):
        Meta = meta(proxy=True)

    assert isolated.found() == []


def test_a_proxy_that_moves_a_machine_of_its_own_is_checked(isolated: Isolated) -> None:
    class Thing(StateMachineModel):
        state_field = "status"
        status = models.CharField(max_length=5)
        other = models.CharField(max_length=5)
        Meta = meta(guard(name="one"), guard(name="two", field="other"))

    class Wrong(Thing):
        state_field = "gone"
        Meta = meta(proxy=True)

    class Odd(Thing):
        state_field = "other"
        transition_effects = {"nowhere": {"other": "a"}}
        Meta = meta(proxy=True)

    assert isolated.found() == [
        ("E004", "A StateMachineModel needs exactly one TransitionConstraint, this one has 0."),
        ("E006", "transition_effects names 'nowhere', which is no state of two."),
    ]


def test_a_constraint_on_a_missing_field_is_an_error_and_does_not_crash_other_checks(isolated: Isolated) -> None:
    class Thing(StateMachineModel):
        transition_effects = {"b": {"when": Effect.NOW}}
        stage = models.CharField(max_length=5)
        version = models.IntegerField()
        at = models.DateTimeField()
        actor = models.CharField(max_length=5)
        Meta = meta(guard(), journal())

    assert [text for _, text in isolated.found()] == [
        "any names 'status', which is no field of the model with a column.",
        "any_journal names 'status', which is no field of the model with a column.",
        "any_journal names 'reason', which is no field of the model with a column.",
    ]
    assert {message.id for message in isolated.messages()} == {"statemachine.E005"}


def test_a_reverse_relation_in_lifecycle_fields_is_an_error(isolated: Isolated) -> None:
    class Thing(StateMachineModel):
        lifecycle_fields = ("parts", "status")
        status = models.CharField(max_length=5)
        Meta = meta(guard())

    class Part(models.Model):
        thing = models.ForeignKey(Thing, models.CASCADE, related_name="parts")
        Meta = meta()

    assert isolated.found() == [
        ("E006", "lifecycle_fields names 'parts', which is no field of the model with a column.")
    ]


def test_effects_with_unknown_states_or_fields_are_errors(isolated: Isolated) -> None:
    class Thing(StateMachineModel):
        status = models.CharField(max_length=5)
        Meta = meta(guard())

    class Child(Thing):
        transition_effects = {"B": {"done_at": Effect.NOW}, "b": {"nowhere": None}, None: {}}
        lifecycle_fields = ("gone",)
        done_at = models.DateTimeField(null=True)
        Meta = meta()

    assert isolated.found() == [
        ("E006", "transition_effects names 'B', which is no state of any."),
        ("E006", "transition_effects names 'done_at', which is not in the table of 'status'."),
        ("E006", "transition_effects names 'nowhere', which is no field of the model with a column."),
        ("E006", "transition_effects names None, which is no state of any."),
        ("E006", "lifecycle_fields names 'gone', which is no field of the model with a column."),
    ]


@pytest.mark.parametrize(("name", "bad"), [("n" * 56, False), ("n" * 57, True), ("ö" * 28, False), ("ö" * 29, True)])
def test_a_constraint_name_that_postgresql_would_truncate_is_an_error(isolated: Isolated, name: str, bad: bool) -> None:
    class Thing(StateMachineModel):
        status = models.CharField(max_length=5)
        Meta = meta(guard(name=name))

    assert [number for number, _ in isolated.found()] == (["E007"] if bad else [])


def test_no_trigger_name_is_longer_than_the_name_check_assumes() -> None:
    for constraint in trigger_constraints(ContainerJob):
        for sql in constraint.create_statements(ContainerJob, dialect_for(connection)):
            if found := re.match(r"CREATE TRIGGER [\"`]([^\"`]+)", sql):
                assert len(found[1]) <= len(constraint.name) + len("_insert")


def journaled(isolated: Isolated, line: dict[str, Any]) -> list[tuple[str, str]]:
    fields = {"version": models.IntegerField(default=0), "at": models.DateTimeField(null=True)}
    words = {name: models.CharField(max_length=5) for name in ("status", "actor", "reason")}
    thing = {**fields, **words, "__module__": __name__, "Meta": meta(guard(), journal())}
    type("Thing", (StateMachineModel,), thing)
    type("Line", (models.Model,), {"__module__": __name__, **line})
    return isolated.found()


def line_fields() -> dict[str, Any]:
    words = {name: models.CharField(max_length=5) for name in ("from_status", "to_status", "actor", "reason")}
    return {"thing": models.ForeignKey("Thing", models.CASCADE), "at": models.DateTimeField(), **words}


def test_a_correct_journal_passes_the_check(isolated: Isolated) -> None:
    more = {"note": models.TextField(null=True), "kind": models.CharField(max_length=5, db_default="x")}
    sound = meta(JournalTable(name="line_table"), db_table="lines")
    assert journaled(isolated, {**line_fields(), **more, "Meta": sound}) == []


def test_a_journal_with_missing_or_unfilled_columns_is_an_error(isolated: Isolated) -> None:
    fields = line_fields()
    del fields["at"]
    fields["kind"] = models.CharField(max_length=5, default="x")
    wrong = meta(JournalTable(name="line_table"), db_table="lines")
    assert journaled(isolated, {**fields, "Meta": wrong}) == [
        ("E008", "machines.Line cannot be the journal of machines.Thing. It has no column 'at'."),
        ("E008", "machines.Line cannot be the journal of machines.Thing. Nothing fills its column 'kind'."),
    ]


def test_a_journal_without_a_journal_table_is_a_warning(isolated: Isolated) -> None:
    text = "machines.Line is a journal without a JournalTable: on SQLite no migration can rebuild it."
    assert journaled(isolated, {**line_fields(), "Meta": meta(db_table="lines")}) == [("W001", text)]


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, None)


def old_map() -> None:
    older = {**ContainerJob.VALID_TRANSITIONS, "completed": ["queued"]}
    TransitionConstraint(field="status", transitions=older, name="cm_job_transitions").install(ContainerJob, connection)


def drop(name: str) -> None:
    run(f"DROP TRIGGER {name}" + (f" ON {JOBS}" if connection.vendor == "postgresql" else ""))


def in_another_way() -> None:
    """Replace the guard by one that lets everything pass."""
    drop("cm_job_transitions")
    run(
        {
            "sqlite": f"CREATE TRIGGER cm_job_transitions BEFORE UPDATE ON {JOBS} BEGIN SELECT 1; END",
            "mysql": f"CREATE TRIGGER cm_job_transitions BEFORE UPDATE ON {JOBS} FOR EACH ROW SET @nothing = 1",
            "postgresql": f"CREATE TRIGGER cm_job_transitions BEFORE UPDATE ON {JOBS} FOR EACH ROW "
            "WHEN (FALSE) EXECUTE FUNCTION cm_job_transitions()",
        }[connection.vendor]
    )


def emptied_function() -> None:
    run(
        "CREATE OR REPLACE FUNCTION cm_job_transitions() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RETURN NEW; END $$"
    )


# How the triggers can come to differ: what is done, and a name that the check must give.
DRIFTS: dict[str, tuple[Callable[[], None], str]] = {
    "guard dropped by hand": (partial(drop, "cm_job_transitions"), "cm_job_transitions"),
    "insert guard dropped by hand": (partial(drop, "cm_job_transitions_insert"), "cm_job_transitions_insert"),
    "journal dropped by hand": (partial(drop, "cm_job_journal"), "cm_job_journal"),
    "an old map": (old_map, "cm_job_transitions"),
    "another trigger of that name": (in_another_way, "cm_job_transitions"),
}
POSTGRESQL_DRIFTS: dict[str, tuple[Callable[[], None], str]] = {
    "disabled": (partial(run, f"ALTER TABLE {JOBS} DISABLE TRIGGER cm_job_transitions"), "cm_job_transitions"),
    "all disabled": (partial(run, f"ALTER TABLE {JOBS} DISABLE TRIGGER ALL"), "cm_job_journal"),
    "enabled, but not always": (partial(run, f"ALTER TABLE {JOBS} ENABLE TRIGGER cm_job_journal"), "cm_job_journal"),
    "function emptied": (emptied_function, "function cm_job_transitions"),
}


def assert_named_and_mended(change: Callable[[], None], name: str) -> None:
    assert check_triggers(None, databases=["default"]) == []
    change()
    [message] = check_triggers(None, databases=["default"])
    assert message.id == "statemachine.W003"
    named = message.msg.rsplit(": ", 1)[1].removesuffix(".").split(", ")
    assert {name, f"function {name}"} & set(named)  # of a changed map, PostgreSQL's triggers know nothing
    with pytest.raises(SystemCheckError, match="W003"):
        call_command("check", databases=["default"], fail_level="WARNING")
    # Exactly what the hint says.
    told = re.findall(r"'manage.py ([^']+)'", str(message.hint))
    assert told[0] == "migrate --database default"
    call_command(*shlex.split(told[0]), stdout=StringIO())
    assert check_triggers(None, databases=["default"]) == []
    job = job_in("pending")
    ContainerJob.objects.filter(pk=job.pk).update(status="cancelled")
    assert journal_of(job) == [("pending", "cancelled")]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("drift", DRIFTS)
def test_trigger_drift_is_a_warning_and_its_hint_repairs_it(drift: str) -> None:
    try:
        assert_named_and_mended(*DRIFTS[drift])
    finally:
        install()


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="Only PostgreSQL can disable a trigger.")
@pytest.mark.parametrize("drift", POSTGRESQL_DRIFTS)
def test_a_disabled_trigger_is_a_warning_and_its_hint_repairs_it(drift: str) -> None:
    try:
        assert_named_and_mended(*POSTGRESQL_DRIFTS[drift])
    finally:
        install()


@pytest.mark.django_db(transaction=True)
def test_installing_correct_triggers_again_changes_nothing() -> None:
    before = dialect_for(connection).installed(connection, JOBS)
    install()
    assert dialect_for(connection).installed(connection, JOBS) == before
    assert check_triggers(None, databases=["default"]) == []


def install() -> None:
    for constraint in trigger_constraints(ContainerJob):
        constraint.install(ContainerJob, connection)


@pytest.mark.django_db
def test_the_trigger_check_ignores_a_table_that_does_not_exist_yet(isolated: Isolated) -> None:
    class Thing(StateMachineModel):
        status = models.CharField(max_length=5)
        Meta = meta(guard())

    assert check_triggers(isolated.registry.get_app_configs(), databases=["default"]) == []


@pytest.mark.django_db
def test_the_trigger_check_without_databases_queries_none() -> None:
    assert check_triggers(None, databases=None) == []


def test_an_unsupported_database_vendor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(connections[connection.alias]), "vendor", "oracle")
    [message] = check_triggers(None, databases=["default"])
    assert message.id == "statemachine.E002"
    assert "mysql, postgresql, sqlite, not for 'oracle'" in message.msg
