"""Migrations forwards and back, on populated tables: after each step the triggers are those of the map, and hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, ProgrammingError, connection, migrations, models, transaction
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.graph import MigrationGraph
from django.db.migrations.operations.base import Operation
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ProjectState

from container_manager.models import ContainerJob
from container_manager.statemachine.trigger_constraint import sweep, trigger_constraints

from .jobs import STATUSES, job_in, journal_of, row_of
from .migrations_app import LABEL, MAP, Trial, clean_up, entry_model, functions, guard, job_model, journal

LONGER = {"a": ["b"], "b": ["c", "d"], "c": [], "d": []}
LONG_TEXT = models.CharField(max_length=40, default="a")
WORD = models.CharField(max_length=5, default="x")


# No app of the project has a table here that would have to be emptied after each test.
on_trial = pytest.mark.django_db(transaction=True, available_apps=[])


@pytest.fixture
def trial() -> Iterator[Trial]:
    clean_up()
    yield Trial()
    clean_up()


def detect(before: ProjectState, after: ProjectState) -> list[Operation]:
    """Return the operations of the one migration that makemigrations would write; renames are confirmed."""
    questioner = MigrationQuestioner({"ask_initial": True, "ask_rename": True, "ask_rename_model": True})
    changes = MigrationAutodetector(before, after, questioner).changes(graph=MigrationGraph())
    [migration] = changes[LABEL]
    return migration.operations


def kinds(operations: list[Operation]) -> list[str]:
    return [type(operation).__name__ for operation in operations]


def swap(*between: Operation, constraint: Any = None) -> list[Operation]:
    """Return the operations with both constraints taken away before and put back after."""
    away = [migrations.RemoveConstraint("Job", name) for name in ("trial_guard", "trial_journal")]
    back = [migrations.AddConstraint("Job", c) for c in (constraint or guard(), journal())]
    return [*away, *between, *back]


UNRELATED = {
    "add a field": migrations.AddField("Job", "extra", models.CharField(max_length=5, null=True)),
    "add a field with a default": migrations.AddField("Job", "extra", WORD),
    "add a unique field": migrations.AddField("Job", "extra", models.IntegerField(null=True, unique=True)),
    "add a foreign key": migrations.AddField(
        "Job", "parent", models.ForeignKey("trial.job", models.CASCADE, null=True)
    ),
    "remove a field": migrations.RemoveField("Job", "note"),
    "alter a field": migrations.AlterField("Job", "note", models.TextField(null=True)),
    "rename a field": migrations.RenameField("Job", "note", "remark"),
    "alter the choices": migrations.AlterField("Job", "status", models.CharField(max_length=16, choices=[("a", "A")])),
    "alter the actor": migrations.AlterField("Job", "actor", LONG_TEXT),
    "add an index": migrations.AddIndex("Job", models.Index(fields=["status"], name="trial_index")),
    "add a constraint": migrations.AddConstraint(
        "Job", models.CheckConstraint(condition=models.Q(version__gte=0), name="trial_version")
    ),
    "rename the table": migrations.AlterModelTable("Job", "trial_Odd Table"),
    "journal: add a field": migrations.AddField(
        "Entry", "extra", models.CharField(max_length=5, null=True, default="x")
    ),
    "journal: add an index": migrations.AddIndex("Entry", models.Index(fields=["at"], name="trial_index")),
    "journal: alter a field": migrations.AlterField("Entry", "note", models.TextField(null=True)),
    "journal: alter a column the trigger fills": migrations.AlterField("Entry", "actor", LONG_TEXT),
    "journal: rename a field": migrations.RenameField("Entry", "note", "remark"),
    "journal: remove a field": migrations.RemoveField("Entry", "note"),
}


@on_trial
@pytest.mark.parametrize("change", UNRELATED)
def test_an_unrelated_migration_keeps_the_triggers(trial: Trial, change: str) -> None:
    trial.create_tables()
    before = trial.rows()
    trial.assert_in_force()
    trial.apply(UNRELATED[change])
    assert trial.rows() == before
    trial.assert_in_force()
    trial.undo()
    assert trial.rows() == before
    trial.assert_in_force()


@on_trial
def test_a_field_of_the_journal_can_be_renamed_with_its_constraint(trial: Trial) -> None:
    trial.create_tables()
    after, before = trial.state.clone(), trial.rows()
    after.rename_field(LABEL, "job", "actor", "who")
    after.remove_constraint(LABEL, "job", "trial_journal")
    after.add_constraint(LABEL, "job", journal(actor="who"))
    trial.apply(*detect(trial.state, after))
    assert trial.rows() == before
    trial.assert_in_force()
    trial.undo()
    assert trial.rows() == before
    trial.assert_in_force()


TYPES = {
    "the status": migrations.AlterField("Job", "status", LONG_TEXT),
    "the primary key": migrations.AlterField("Job", "id", models.BigAutoField(primary_key=True)),
    "the version": migrations.AlterField("Job", "version", models.BigIntegerField(default=0)),
}


@on_trial
@pytest.mark.parametrize("column", TYPES)
def test_the_type_of_a_column_used_by_a_trigger_can_change(trial: Trial, column: str) -> None:
    trial.create_tables()
    before = trial.rows()
    trial.assert_in_force()
    trial.apply(TYPES[column])
    connection.close()  # as a deployment does; see the next test
    assert trial.rows() == before
    trial.assert_in_force()
    trial.undo()
    connection.close()
    assert trial.rows() == before
    trial.assert_in_force()


@on_trial
@pytest.mark.parametrize("column", ["the primary key", "the version"])
def test_a_connection_opened_before_a_type_change_gets_errors_but_no_illegal_transition(
    trial: Trial, column: str
) -> None:
    """PostgreSQL's functions are compiled once per connection, for the types of then."""
    trial.create_tables()
    trial.apply(TYPES[column])
    legal = trial.model("Job").objects.filter(status="a")
    illegal = trial.model("Job").objects.filter(status="c")
    with pytest.raises(DatabaseError), transaction.atomic():
        illegal.update(status="a")
    refused = pytest.raises(ProgrammingError, match="type of parameter")
    with refused if connection.vendor == "postgresql" else nullcontext(), transaction.atomic():
        legal.update(status="b")
    connection.close()
    trial.assert_in_force()


@on_trial
def test_the_guarded_model_can_be_renamed(trial: Trial) -> None:
    trial.create_tables()
    before = trial.rows()
    trial.apply(migrations.RenameModel("Job", "Task"))
    assert trial.rows("Task") == before
    trial.assert_in_force("Task")
    trial.undo()
    assert trial.rows() == before
    trial.assert_in_force()


@on_trial
def test_the_journals_model_can_be_renamed_with_its_constraint(trial: Trial) -> None:
    trial.create_tables()
    after, before = trial.state.clone(), trial.rows()
    after.rename_model(LABEL, "Entry", "Line")
    after.remove_constraint(LABEL, "job", "trial_journal")
    after.add_constraint(LABEL, "job", journal(table="trial_line"))
    operations = detect(trial.state, after)
    assert kinds(operations) == ["RenameModel", "RemoveConstraint", "AddConstraint"]
    trial.apply(*operations)
    assert trial.rows(entry="Line") == before
    trial.assert_in_force(entry="Line")


@on_trial
def test_renaming_the_journals_model_is_reversible_if_the_constraint_is_removed_first(trial: Trial) -> None:
    """SQLite renames no table while a trigger names one that is not there."""
    trial.create_tables()
    before = trial.rows()
    trial.apply(
        migrations.RemoveConstraint("Job", "trial_journal"),
        migrations.RenameModel("Entry", "Line"),
        migrations.AddConstraint("Job", journal(table="trial_line")),
    )
    trial.assert_in_force(entry="Line")
    trial.undo()
    assert trial.rows() == before
    trial.assert_in_force()


@on_trial
def test_a_changed_map_is_migrated_forwards_and_back(trial: Trial) -> None:
    trial.create_tables()
    after, before = trial.state.clone(), trial.rows()
    after.remove_constraint(LABEL, "job", "trial_guard")
    after.add_constraint(LABEL, "job", guard(LONGER))
    operations = detect(trial.state, after)
    assert kinds(operations) == ["RemoveConstraint", "AddConstraint"]
    trial.apply(*operations)
    assert trial.rows() == before
    trial.assert_in_force()
    jobs = trial.model("Job").objects
    assert jobs.filter(status="b").update(status="d") == 2
    trial.model("Entry").objects.filter(to_status="d").delete()
    jobs.filter(status="d").delete()
    trial.undo()
    trial.assert_in_force()
    with pytest.raises(IntegrityError), transaction.atomic():
        jobs.create(status="d")


@on_trial
def test_a_row_in_a_state_that_the_new_map_lacks_can_only_be_deleted(trial: Trial) -> None:
    """So the migration that drops a state moves its rows first, between RemoveConstraint and AddConstraint."""
    trial.create_tables()
    shorter = guard({"a": ["b"], "b": []})
    trial.apply(*swap(constraint=shorter))
    stranded = trial.model("Job").objects.filter(status="c")
    assert stranded.update(note="written") == 1
    with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
        stranded.update(status="b")
    assert stranded.count() == 1
    trial.undo()

    def move(apps: Any, _editor: Any) -> None:
        apps.get_model(LABEL, "Job").objects.filter(status="c").update(status="b")

    before, after = swap(constraint=shorter)[:2], swap(constraint=shorter)[2:]
    trial.apply(*before)
    trial.apply(migrations.RunPython(move, migrations.RunPython.noop))
    trial.apply(*after)
    assert set(trial.model("Job").objects.values_list("status", flat=True)) == {"a", "b"}
    trial.assert_in_force()


@on_trial
def test_a_changed_violation_message_does_not_alter_the_table(trial: Trial) -> None:
    trial.create_tables()
    after = trial.state.clone()
    after.remove_constraint(LABEL, "job", "trial_guard")
    after.add_constraint(LABEL, "job", guard(violation_error_message="No."))
    operations = detect(trial.state, after)
    if "AlterConstraint" in kinds(operations):
        assert kinds(operations) == ["AlterConstraint"]
        assert trial.sql(*operations).count("CREATE") == 0
    trial.apply(*operations)
    trial.assert_in_force()


@on_trial
def test_the_status_field_can_be_renamed_with_its_constraints(trial: Trial) -> None:
    """Django's RenameField does not know the names inside constraints, so they must be written anew with the field.

    makemigrations then takes the old ones away first, and puts the new ones back last.
    """
    trial.create_tables()
    after, before = trial.state.clone(), trial.rows()
    after.rename_field(LABEL, "job", "status", "stage")
    for name in ("trial_guard", "trial_journal"):
        after.remove_constraint(LABEL, "job", name)
    for constraint in (guard(field="stage"), journal(field="stage")):
        after.add_constraint(LABEL, "job", constraint)
    operations = detect(trial.state, after)
    assert kinds(operations) == ["RemoveConstraint"] * 2 + ["RenameField"] + ["AddConstraint"] * 2
    trial.apply(*operations)
    assert trial.rows(field="stage") == before
    trial.assert_in_force(field="stage")
    trial.undo()
    assert trial.rows() == before
    trial.assert_in_force()


@on_trial
def test_a_longer_status_field_and_a_longer_map_can_be_one_migration(trial: Trial) -> None:
    trial.create_tables()
    longer = {**MAP, "c": ["a long name for a status"], "a long name for a status": []}
    after = trial.state.clone()
    after.alter_field(LABEL, "job", "status", LONG_TEXT, preserve_default=True)
    after.remove_constraint(LABEL, "job", "trial_guard")
    after.add_constraint(LABEL, "job", guard(longer))
    operations = detect(trial.state, after)
    assert kinds(operations)[0] == "RemoveConstraint"
    assert kinds(operations)[-1] == "AddConstraint"
    trial.apply(*operations)
    trial.assert_in_force()
    trial.undo()
    trial.assert_in_force()


@on_trial
def test_a_non_atomic_migration_installs_the_same_triggers(trial: Trial) -> None:
    trial.apply(job_model([guard(), journal()]), entry_model(), atomic=False)
    trial.assert_in_force()
    trial.apply(*swap(constraint=guard(LONGER)), atomic=False)
    trial.assert_in_force()
    trial.undo()
    trial.assert_in_force()


@on_trial
def test_constraints_can_be_added_to_a_populated_table_and_removed(trial: Trial) -> None:
    trial.apply(job_model([]), entry_model())
    trial.model("Job").objects.create(status="b")
    trial.apply(migrations.AddConstraint("Job", guard()), migrations.AddConstraint("Job", journal()))
    trial.assert_in_force()
    trial.undo()
    assert trial.model("Job").objects.update(status="a") == 1
    assert not trial.model("Entry").objects.exists()
    assert functions() == []


@on_trial
def test_a_constraint_added_and_removed_in_one_migration_leaves_nothing(trial: Trial) -> None:
    trial.apply(
        job_model([guard(), journal()]),
        entry_model(),
        migrations.RemoveConstraint("Job", "trial_guard"),
        migrations.RemoveConstraint("Job", "trial_journal"),
    )
    jobs = trial.model("Job").objects
    jobs.create(status="anything")
    assert jobs.update(status="else") == 1
    assert functions() == []


@on_trial
def test_a_status_field_with_a_database_default_gets_its_triggers(trial: Trial) -> None:
    """Django makes such a table with parameters, and asks for its constraints in another way then."""
    trial.apply(job_model([guard(), journal()], status=models.CharField(max_length=16, db_default="a")), entry_model())
    trial.assert_in_force()
    trial.undo()
    trial.apply(job_model([], status=models.CharField(max_length=16, db_default="a")), entry_model())
    trial.apply(migrations.AddConstraint("Job", guard()), migrations.AddConstraint("Job", journal()))
    trial.assert_in_force()


@on_trial
@pytest.mark.parametrize("table", ["trial_UPPER", "trial with spaces", "trial-hyphen", "trial_ö", "trial_order"])
def test_a_table_with_any_name_gets_its_triggers(trial: Trial, table: str) -> None:
    trial.apply(
        job_model([guard(), journal(table=f"{table} entries")], db_table=table),
        entry_model(db_table=f"{table} entries"),
    )
    trial.assert_in_force()
    trial.apply(migrations.AddField("Entry", "extra", WORD), migrations.RemoveField("Entry", "extra"))
    trial.apply(migrations.AddField("Job", "extra", WORD))
    trial.assert_in_force()
    trial.undo()
    trial.assert_in_force()


@on_trial
def test_a_table_with_a_quoted_name_gets_its_triggers(trial: Trial) -> None:
    """So people name a table in another schema of PostgreSQL."""
    mark = "`" if connection.vendor == "mysql" else '"'
    schema = f"{mark}public{mark}." if connection.vendor == "postgresql" else ""
    job, entry = f"{schema}{mark}trial_Job{mark}", f"{schema}{mark}trial_Entry{mark}"
    fields = [("job_id", models.IntegerField()), *(field for field in entry_model().fields if field[0] != "job")]
    trial.apply(
        job_model([guard(), journal(table=entry)], db_table=job),
        migrations.CreateModel("Entry", fields, {"db_table": entry}),
    )
    trial.assert_in_force()


@on_trial
@pytest.mark.parametrize(
    "states",
    [
        pytest.param(["it's", 'say "hi"', "back\\slash"], id="quotes"),
        pytest.param(["100%", "%s", "%%"], id="per cent"),
        pytest.param(["två ord", "日本", "a;b--"], id="letters"),
        pytest.param(["x" * 16, "$guard", ":name"], id="other"),
    ],
)
def test_states_with_any_name_are_enforced_however_the_table_is_created(trial: Trial, states: list[str]) -> None:
    first, second, third = states
    constraint = guard({first: [second], second: [third], third: []})
    trial.apply(job_model([constraint, journal()]), entry_model())
    for rebuild in (None, migrations.AddField("Job", "extra", WORD)):
        if rebuild is not None:
            trial.apply(rebuild)
        assert trial.drift() == []
        job = trial.model("Job").objects.create(status=first)
        rows = trial.model("Job").objects.filter(pk=job.pk)
        with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
            rows.update(status=third)
        rows.update(status=second)
        entries = trial.model("Entry").objects.filter(job_id=job.pk)
        assert list(entries.values_list("from_status", "to_status")) == [(first, second)]


@on_trial
def test_a_map_too_long_for_the_error_message_is_still_enforced(trial: Trial) -> None:
    many = [f"status number {number}" for number in range(60)]
    trial.apply(job_model([guard({"a": many, **{state: [] for state in many}}), journal()]), entry_model())
    job = trial.model("Job").objects.create(status=many[0])
    for status in ("a", many[1]):
        with pytest.raises(IntegrityError, match="Invalid transition from status number 0"), transaction.atomic():
            trial.model("Job").objects.filter(pk=job.pk).update(status=status)
    with pytest.raises(IntegrityError, match="Invalid status"), transaction.atomic():
        trial.model("Job").objects.create(status="b")
    trial.model("Job").objects.create(status="a")
    with pytest.raises(IntegrityError, match="Invalid transition from a"), transaction.atomic():
        trial.model("Job").objects.filter(status="a").update(status="b")


@on_trial
def test_sqlmigrate_shows_the_triggers_both_for_a_new_table_and_for_a_changed_one(trial: Trial) -> None:
    quote = connection.ops.quote_name
    for text in (
        trial.sql(job_model([guard(), journal()]), entry_model()),
        trial.sql(job_model([]), entry_model(), *[migrations.AddConstraint("Job", c) for c in (guard(), journal())]),
    ):
        assert all(f"CREATE TRIGGER {quote(name)}" in text for name in ("trial_guard", "trial_journal"))
        assert "%%" not in text
    trial.create_tables()
    text = trial.sql(
        migrations.RemoveConstraint("Job", "trial_guard"), migrations.RemoveConstraint("Job", "trial_journal")
    )
    assert "DROP" in text
    assert "CREATE TRIGGER" not in text.split("Remove constraint trial_journal")[1]
    trial.assert_in_force()


@on_trial
def test_functions_left_by_dropped_tables_are_removed(trial: Trial) -> None:
    trial.create_tables()
    assert sweep("default") == []
    trial.assert_in_force()
    trial.apply(migrations.DeleteModel("Entry"), migrations.DeleteModel("Job"))
    left = functions()
    assert bool(left) == (connection.vendor == "postgresql")
    assert sorted(sweep("default")) == sorted(left)
    assert functions() == []


@pytest.mark.django_db(transaction=True)
def test_the_app_can_be_migrated_to_zero_and_back() -> None:
    for status in STATUSES:
        job_in(status)
    job_in("pending").mark_as_queued()
    try:
        call_command("migrate", "container_manager", "zero", verbosity=0)
        tables = connection.introspection.table_names()
        ours = [name for name in tables if name.startswith("container_manager")]
        assert [name for name in ours if not name.startswith("container_manager_dashboard_")] == []
        assert left_behind() == []
    finally:
        call_command("migrate", "container_manager", verbosity=0)
    assert [c.drift(ContainerJob, connection) for c in trigger_constraints(ContainerJob)] == [[], []]
    job = job_in("pending")
    with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
        ContainerJob.objects.update(status="completed")
    job.mark_as_queued()
    assert row_of(job)["status"] == "queued"
    assert journal_of(job) == [("pending", "queued")]


@pytest.mark.django_db(transaction=True)
def test_the_app_can_be_migrated_to_its_first_migration_and_back_with_jobs() -> None:
    job = job_in("pending")
    job.mark_as_queued()
    try:
        call_command("migrate", "container_manager", "0001", verbosity=0)
        assert journal_of(job) == [("pending", "queued")]
    finally:
        call_command("migrate", "container_manager", verbosity=0)
    assert [c.drift(ContainerJob, connection) for c in trigger_constraints(ContainerJob)] == [[], []]
    job.mark_as_running()
    assert journal_of(job) == [("pending", "queued"), ("queued", "running")]


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "sqlite", reason="Only SQLite has AUTOINCREMENT.")
def test_a_transition_does_not_write_an_autoincrement_counter() -> None:
    job_in("pending").mark_as_queued()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sqlite_sequence WHERE name = 'container_manager_jobtransition'")
        assert cursor.fetchone() == (0,)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("backwards", [False, True])
def test_sqlmigrate_shows_the_apps_triggers(backwards: bool) -> None:
    text = StringIO()
    call_command("sqlmigrate", "container_manager", "0001", backwards=backwards, stdout=text)
    assert ("CREATE TRIGGER" in text.getvalue()) != backwards


def left_behind() -> list[str]:
    """Return the triggers and trigger functions of jobs that are in the database."""
    statement = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'cm_job%%'",
        "mysql": "SELECT trigger_name FROM information_schema.triggers "
        "WHERE trigger_schema = DATABASE() AND trigger_name LIKE 'cm_job%%'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'cm_job%%' "
        "UNION SELECT proname FROM pg_proc WHERE proname LIKE 'cm_job%%'",
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(statement, [])
        return [name for (name,) in cursor.fetchall()]
