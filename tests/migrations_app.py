"""An app that exists in migrations only, for tests of operations on tables with triggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from django.db import IntegrityError, connection, migrations, models, transaction
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from container_manager.statemachine import JournalTable, TransitionConstraint, TransitionJournal
from container_manager.statemachine.trigger_constraint import trigger_constraints

LABEL = "trial"
MAP: Mapping[Any, Sequence[Any]] = {"a": ["b"], "b": ["c"], "c": []}


def guard(transitions: Mapping[Any, Sequence[Any]] = MAP, *, field: str = "status", **options: Any) -> Any:
    return TransitionConstraint(field=field, transitions=transitions, name="trial_guard", **options)


def journal(*, field: str = "status", table: str = "trial_entry", actor: str = "actor") -> Any:
    return TransitionJournal(
        field=field, table=table, name="trial_journal", subject="job_id", version="version", at="at", actor=actor,
        reason="reason",
    )  # fmt: skip


def job_model(constraints: Sequence[Any], *, status: Any = None, **options: Any) -> migrations.CreateModel:
    fields = [
        ("id", models.AutoField(primary_key=True)),
        ("status", models.CharField(max_length=16, default="a") if status is None else status),
        ("version", models.PositiveIntegerField(default=0)),
        ("at", models.DateTimeField(null=True)),
        ("actor", models.CharField(max_length=50, default="")),
        ("reason", models.TextField(default="")),
        ("note", models.CharField(max_length=10, null=True)),
    ]
    return migrations.CreateModel("Job", fields, {"constraints": list(constraints), **options})


def entry_model(to: str = "trial.job", **options: Any) -> migrations.CreateModel:
    fields = [
        ("id", models.AutoField(primary_key=True)),
        ("job", models.ForeignKey(to, models.CASCADE)),
        ("from_status", models.CharField(max_length=16)),
        ("to_status", models.CharField(max_length=16)),
        ("at", models.DateTimeField()),
        ("actor", models.CharField(max_length=50)),
        ("reason", models.TextField()),
        ("note", models.CharField(max_length=10, null=True)),
    ]
    constraints = [JournalTable(name="trial_entry_table")]
    return migrations.CreateModel("Entry", fields, {"constraints": constraints, **options})


class Trial:
    """The trial app: its state in Django's migrations and in the database."""

    def __init__(self) -> None:
        self.state = ProjectState()
        self._done: list[tuple[migrations.Migration, ProjectState]] = []

    def apply(self, *operations: Operation, atomic: bool = True) -> None:
        """Run operations as one migration."""
        migration = migrations.Migration("trial", LABEL)
        migration.operations, migration.atomic = list(operations), atomic
        before = self.state.clone()
        with connection.schema_editor(atomic=atomic) as editor:
            after = migration.apply(self.state.clone(), editor)
        self.state = after
        self._done.append((migration, before))

    def undo(self) -> None:
        """Run the last migration backwards."""
        migration, before = self._done.pop()
        with connection.schema_editor(atomic=migration.atomic) as editor:
            migration.unapply(before.clone(), editor)
        self.state = before

    def sql(self, *operations: Operation) -> str:
        """Return what `apply` would run, as sqlmigrate does."""
        migration = migrations.Migration("trial", LABEL)
        migration.operations = list(operations)
        with connection.schema_editor(collect_sql=True, atomic=True) as editor:
            migration.apply(self.state.clone(), editor, collect_sql=True)
        return "\n".join(editor.collected_sql)

    def model(self, name: str) -> Any:
        return self.state.apps.get_model(LABEL, name)

    def create_tables(self) -> None:
        """Create the two tables, with rows in every status and their journal."""
        self.apply(job_model([guard(), journal()]), entry_model())
        job = self.model("Job")
        for status in ("a", "b", "c"):
            job.objects.create(status=status, note="kept")
        job.objects.filter(status="a").update(status="b")
        job.objects.create(status="a")

    def rows(self, job: str = "Job", entry: str = "Entry", field: str = "status") -> list[Any]:
        """Return what no migration of these tests may change."""
        jobs = self.model(job).objects.order_by("pk").values_list("pk", field)
        entries = self.model(entry).objects.order_by("pk").values_list("job_id", "from_status", "to_status", "at")
        return [*jobs, *entries]

    def assert_in_force(self, job: str = "Job", entry: str | None = "Entry", field: str = "status") -> None:
        """Assert that the triggers are those of the model, that they refuse, and that they record."""
        model = self.model(job)
        assert self.drift(job) == []
        with transaction.atomic():
            row = model.objects.create(**{field: "a"})
            rows = model.objects.filter(pk=row.pk)
            with pytest.raises(IntegrityError, match="Invalid transition from a"), transaction.atomic():
                rows.update(**{field: "c"})
            with pytest.raises(IntegrityError, match="Invalid status"), transaction.atomic():
                model.objects.create(**{field: "x"})
            rows.update(**{field: "b"})
            if entry is not None:
                entries = self.model(entry).objects.filter(job_id=row.pk)
                assert list(entries.values_list("from_status", "to_status")) == [("a", "b")]
            transaction.set_rollback(True)

    def drift(self, job: str = "Job") -> list[str]:
        model = self.model(job)
        return [name for constraint in trigger_constraints(model) for name in constraint.drift(model, connection)]


def clean_up() -> None:
    """Drop every table of the trial app, and its trigger functions."""
    cascade = " CASCADE" if connection.vendor == "postgresql" else ""
    with connection.constraint_checks_disabled(), connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if LABEL in table.lower():
                cursor.execute(f"DROP TABLE {connection.ops.quote_name(table)}{cascade}")
        for function in functions():
            cursor.execute(f'DROP FUNCTION "{function}"')


def functions() -> list[str]:
    """Return the trial's trigger functions, of which only PostgreSQL has any."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'trial%%'", [])
        return [name for (name,) in cursor.fetchall()]
