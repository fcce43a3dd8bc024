"""Migrate first, then replace the code: until then the old release runs on the new schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, migrations, models, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import NOT_PROVIDED

from container_manager import queue
from container_manager.models import ContainerJob, JobAttempt, JobLog
from container_manager.statemachine.installation import drift
from container_manager.store.consistency import examine

from .jobs import row_of
from .polling import PATIENCE_SECONDS
from .workers import start_worker

APP, FIRST = "container_manager", "0001_initial"
MODELS = ("ContainerJob", "JobAttempt", "JobLog", "JobTransition", "Worker", "PausedQueue")


def obstacles(before: ProjectState, after: ProjectState) -> list[str]:
    """Return what code of the state before cannot stand in the state after: it names its columns, and no others."""
    found = []
    for (app, name), model in before.models.items():
        if app == APP:
            if (later := after.models.get((app, name))) is None:
                found.append(f"{name} is removed or renamed")
            else:
                found += [f"{name}.{text}" for text in _obstacles(model, later)]
    return found


def _obstacles(before: ModelState, after: ModelState) -> Iterator[str]:
    if before.options.get("db_table") != after.options.get("db_table"):
        yield "db_table is another one"
    for name, field in before.fields.items():
        if (later := after.fields.get(name)) is None:
            yield f"{name} is removed or renamed"
        elif field.db_column != later.db_column:
            yield f"{name} has another column"
        elif field.null and not later.null:
            yield f"{name} may be null no more"
    for name, field in after.fields.items():
        is_filled = field.null or field.db_default is not NOT_PROVIDED or field.many_to_many or field.generated
        if name not in before.fields and not is_filled:
            yield f"{name} is new, and has neither db_default nor null=True"


def scratch(*operations: migrations.operations.base.Operation) -> migrations.Migration:
    """Return a migration that a later release could have."""
    migration = migrations.Migration("0002_scratch", APP)
    migration.operations = list(operations)
    return migration


def first_state() -> ProjectState:
    return MigrationLoader(None).project_state((APP, FIRST))


def added(field: models.Field) -> list[migrations.AddField]:
    return [migrations.AddField(model, "later", field.clone()) for model in MODELS]


@pytest.mark.without_database
class TestLaterMigrations:
    def test_each_migration_keeps_the_schema_usable_for_the_previous_release(self) -> None:
        loader = MigrationLoader(None)
        [leaf] = loader.graph.leaf_nodes(APP)
        state, found = first_state(), {}
        for key in loader.graph.forwards_plan(leaf):
            if key[0] == APP and key[1] != FIRST:
                before, state = state, loader.get_migration(*key).mutate_state(state, preserve=True)
                found[key[1]] = obstacles(before, state)
        assert {name: texts for name, texts in found.items() if texts} == {}

    @pytest.mark.parametrize(
        ("operation", "texts"),
        [
            (migrations.AddField("Worker", "later", models.CharField(max_length=5, default="x")), ["worker.later is new"]),
            (migrations.AddField("Worker", "later", models.CharField(max_length=5, db_default="x")), []),
            (migrations.AddField("Worker", "later", models.CharField(max_length=5, null=True)), []),
            (migrations.RemoveField("Worker", "host"), ["worker.host is removed"]),
            (migrations.RenameField("Worker", "host", "machine"), ["worker.host is removed", "worker.machine is new"]),
            (migrations.AlterField("ContainerJob", "exit_code", models.IntegerField(default=0)), ["containerjob.exit_code may be null no more"]),
            (migrations.AlterField("Worker", "host", models.CharField(max_length=9, db_column="h")), ["worker.host has another column"]),
            (migrations.AlterModelTable("Worker", "workers"), ["worker.db_table is another one"]),
            (migrations.DeleteModel("PausedQueue"), ["pausedqueue is removed"]),
            (migrations.CreateModel("Other", [("id", models.BigAutoField(primary_key=True))]), []),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_migration_that_breaks_the_previous_release_is_detected(
        self, operation: migrations.operations.base.Operation, texts: list[str]
    ) -> None:
        before = first_state()
        found = obstacles(before, scratch(operation).mutate_state(before, preserve=True))
        assert len(found) == len(texts)
        assert all(text.startswith(start) for text, start in zip(found, texts, strict=True))


@contextmanager
def migrated(*operations: migrations.operations.base.Operation) -> Iterator[None]:
    """Apply a migration of a later release to the tests' database, and undo it."""
    migration, before = scratch(*operations), first_state()
    with connection.schema_editor(atomic=migration.atomic) as editor:
        migration.apply(before.clone(), editor)
    try:
        yield
    finally:
        with connection.schema_editor(atomic=migration.atomic) as editor:
            migration.unapply(before.clone(), editor)
        assert drift(ContainerJob, connection.alias) == []


@pytest.mark.django_db(transaction=True)
class TestPreviousRelease:
    @pytest.mark.shows("howto/deploy.md#migrate-first")
    def test_a_worker_of_the_previous_release_runs_jobs_after_columns_with_database_defaults_were_added(
        self, tmp_path: Path
    ) -> None:
        with migrated(*added(models.CharField(max_length=5, db_default="x"))):
            fails = queue.enqueue(command="sh -c 'test $CONTAINER_MANAGER_ATTEMPT -gt 1 || exit 3'", max_retries=1)
            prints = queue.enqueue(command="echo hello")
            queue.pause_queue("other")
            process = start_worker("--slots", "2", "--max-jobs", "3", log=tmp_path / "log")
            try:
                assert process.wait(timeout=PATIENCE_SECONDS) == 0, (tmp_path / "log").read_text()
            finally:
                process.kill()
                process.wait()
            assert [row_of(job)["status"] for job in (fails, prints)] == ["completed", "completed"]
            assert (row_of(fails)["attempt"], prints.output()) == (2, b"hello\n")
            assert JobAttempt.objects.count() == 3
            assert JobLog.objects.exists()
            assert examine().problems == []
            with connection.cursor() as cursor:
                cursor.execute("SELECT DISTINCT later FROM container_manager_jobtransition")
                assert [*cursor.fetchall()] == [("x",)]

    def test_the_previous_release_cannot_enqueue_if_a_new_column_has_no_database_default(self) -> None:
        later = migrations.AddField("ContainerJob", "later", models.CharField(max_length=5, default="x"))
        with migrated(later), pytest.raises(DatabaseError), transaction.atomic():
            queue.enqueue(command="true")
