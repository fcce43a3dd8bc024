"""Random histories of jobs against a model in plain Python.

The model knows each job's status, its journal, and which change was its last one. After every step the database, the
instances in memory, the journal and the signals must say what the model says.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count, pairwise
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, DatabaseError, IntegrityError, connection, connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from container_manager.models import ContainerJob, JobTransition
from container_manager.signals import job_transitioned
from container_manager.statemachine import InvalidTransition, MissingRow, StaleTransition
from container_manager.statemachine.machine import machine_of

from .jobs import LEGAL, STATUSES, columns_for, job_in
from .primary_replica import PrimaryReplicaRouter

TARGETS = st.sampled_from(STATUSES)
NAMES = st.sampled_from(["", "a", "b"])
ACTORS = st.sampled_from(["", "alice", "bob"])
COPIERS: list[Callable[[ContainerJob], ContainerJob]] = [
    copy.copy,
    copy.deepcopy,
    lambda job: pickle.loads(pickle.dumps(job)),  # noqa: S301  # our own bytes
]


@dataclass(slots=True)
class Row:
    """What the database holds of a job. ``change`` names the last change of status; none is ever named twice."""

    status: str
    change: int
    name: str = ""
    first: str = ""
    journal: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Handle:
    """An instance, and what it believes: the status and change it was loaded with, and its own unsaved status."""

    job: ContainerJob
    status: str | None
    change: int | None
    unsaved: str | None = None
    # Loaded without most columns: Django's refresh leaves them out too.
    partial: bool = False
    # Whether all columns were read at the same time.
    whole: bool = True

    @property
    def shown(self) -> str | None:
        return self.unsaved or self.status


class JobMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Any, Row] = {}
        self.held: list[Handle] = []
        self.transactions: list[tuple[transaction.Atomic, dict[Any, Row], list[tuple[Any, str, str]]]] = []
        self.changes = count()
        self.expected_signals: list[tuple[Any, str, str]] = []
        self.seen_signals: list[tuple[Any, str, str]] = []
        job_transitioned.connect(self.receive)

    def receive(self, transitions: Any, **event: object) -> None:
        self.seen_signals.extend((t.pk, t.source, t.target) for t in transitions)

    def teardown(self) -> None:
        while self.transactions:
            self.end(commit=False)
        job_transitioned.disconnect(self.receive)
        ContainerJob.objects.all().delete()

    def moved(self, pk: Any, to: str, *, actor: str = "", told: bool = True) -> int:
        """Note a change of status; return its name."""
        row = self.rows[pk]
        row.journal.append((row.status, to, actor))
        if told:
            self.expected_signals.append((pk, row.status, to))
        row.status, row.change = to, next(self.changes)
        return row.change

    def hold(self, job: ContainerJob, **beliefs: Any) -> Handle:
        row = self.rows[job.pk]
        handle = Handle(**{"job": job, "status": row.status, "change": row.change, **beliefs})
        self.held.append(handle)
        return handle

    def refusal_of(self, handle: Handle, to: str) -> type[Exception] | None:
        """Return the error that moving a handle's row must raise."""
        row = self.rows.get(handle.job.pk)
        if (handle.shown, to) not in LEGAL or (handle.status, to) not in LEGAL:
            return InvalidTransition
        if row is None:
            return MissingRow
        return StaleTransition if row.change != handle.change else None

    def must(self, error: type[Exception] | None, act: Callable[[], object], handle: Handle) -> bool:
        """Do something that must raise just this error, or none; tell whether it was done."""
        if error is None:
            act()
            return True
        before = {name: value for name, value in vars(handle.job).items() if not name.startswith("_")}
        with pytest.raises(error) as refusal:
            act()
        assert type(refusal.value) is error
        assert {name: vars(handle.job)[name] for name in before} == before
        if error is StaleTransition:
            assert refusal.value.found == self.rows[handle.job.pk].status
        return False

    # Jobs and instances

    @initialize(target=jobs, status=TARGETS)
    def first_job(self, status: str) -> Any:
        return self.create(status)

    @rule(target=jobs, status=TARGETS)
    def create_job(self, status: str) -> Any:
        return self.create(status)

    def create(self, status: str) -> Any:
        job = job_in(status, max_retries=1000)
        self.rows[job.pk] = Row(status=status, change=next(self.changes), first=status)
        self.hold(job)
        return job.pk

    @rule(pk=jobs)
    def delete_job(self, pk: Any) -> None:
        ContainerJob.objects.filter(pk=pk).delete()
        self.rows.pop(pk, None)

    @rule(target=handles, pk=jobs)
    def load(self, pk: Any) -> Handle | None:
        return self.hold(ContainerJob.objects.get(pk=pk)) if pk in self.rows else None

    @rule(target=handles, pk=jobs)
    def load_a_part(self, pk: Any) -> Handle | None:
        if pk not in self.rows:
            return None
        return self.hold(
            ContainerJob.objects.only("name").get(pk=pk), status=None, change=None, partial=True, whole=False
        )

    @rule(target=handles, handle=handles, copier=st.sampled_from(COPIERS))
    def duplicate(self, handle: Handle | None, copier: Callable[[ContainerJob], ContainerJob]) -> Handle | None:
        if handle is None:
            return None
        twin = replace(handle, job=copier(handle.job))
        self.held.append(twin)
        return twin

    @rule(handle=handles, fields=st.sampled_from([None, ["status"]]))
    def refresh(self, handle: Handle | None, fields: list[str] | None) -> None:
        if handle is None or (fields and handle.unsaved):
            return
        row = self.rows.get(handle.job.pk)
        if row is None:
            with pytest.raises(ContainerJob.DoesNotExist):
                handle.job.refresh_from_db(fields=fields)
            return
        handle.job.refresh_from_db(fields=fields)
        handle.unsaved, handle.whole = None, fields is None and not handle.partial
        if fields or handle.status is not None:
            handle.status, handle.change = row.status, row.change

    # One instance

    @rule(handle=handles, to=TARGETS, actor=ACTORS)
    def transition(self, handle: Handle | None, to: str, actor: str) -> None:
        self.move(handle, [to], lambda job: job.transition_to(to, actor=actor), actor=actor)

    @rule(handle=handles, to=st.sampled_from(["queued", "running", "completed", "cancelled"]), actor=ACTORS)
    def mark(self, handle: Handle | None, to: str, actor: str) -> None:
        self.move(handle, [to], lambda job: getattr(job, f"mark_as_{to}")(actor=actor), actor=actor)

    @rule(handle=handles, actor=ACTORS)
    def mark_as_queued_for_later(self, handle: Handle | None, actor: str) -> None:
        later = timezone.now() + timedelta(hours=1)
        self.move(handle, ["queued"], lambda job: job.mark_as_queued(later, actor=actor), actor=actor)

    @rule(handle=handles, retry=st.booleans(), actor=ACTORS)
    def mark_as_failed(self, handle: Handle | None, retry: bool, actor: str) -> None:
        path = ["failed", "retrying"] if retry else ["failed"]
        self.move(handle, path, lambda job: job.mark_as_failed(should_retry=retry, actor=actor), actor=actor)

    def move(
        self, handle: Handle | None, path: list[str], act: Callable[[ContainerJob], object], *, actor: str
    ) -> None:
        if handle is None or handle.unsaved or not self.learn_status(handle):
            return
        if self.must(self.refusal_of(handle, path[0]), lambda: act(handle.job), handle):
            for to in path:
                handle.change = self.moved(handle.job.pk, to, actor=actor)
            handle.status = path[-1]

    @rule(handle=handles, to=TARGETS, actor=ACTORS)
    def prepare(self, handle: Handle | None, to: str, actor: str) -> None:
        if handle is None or not self.learn_status(handle):
            return
        legal = (handle.shown, to) in LEGAL
        act = partial(handle.job.transition_to, to, save=False, actor=actor)
        if self.must(None if legal else InvalidTransition, act, handle):
            handle.unsaved = to

    @rule(handle=handles, name=NAMES)
    def save(self, handle: Handle | None, name: str) -> None:
        """Save another field, and with it the status that was prepared, if one was."""
        if handle is not None and handle.whole:
            handle.job.name = name
            self.save_all(handle, handle.shown, actor=handle.job.status_changed_by if handle.unsaved else "")

    @rule(handle=handles, name=NAMES, to=TARGETS)
    def assign_and_save(self, handle: Handle | None, name: str, to: str) -> None:
        if handle is not None and handle.whole and not handle.unsaved:
            handle.job.name, handle.job.status = name, to
            self.save_all(handle, to, actor="")
            handle.job.status = handle.status or ""

    def save_all(self, handle: Handle, to: str | None, *, actor: str) -> None:
        row, job = self.rows.get(handle.job.pk), handle.job
        error: type[Exception] | None = None
        if to != handle.status and (handle.status, to) not in LEGAL:
            error = InvalidTransition
        elif row is None:
            error = MissingRow
        elif row.change != handle.change and to != handle.status:
            error = StaleTransition
        if self.must(error, job.save, handle) and row is not None:
            row.name = job.name
            if to is not None and to != handle.status:
                handle.change = self.moved(job.pk, to, actor=actor)
                handle.status, handle.unsaved = to, None

    @rule(handle=handles, name=NAMES)
    def save_only_the_name(self, handle: Handle | None, name: str) -> None:
        if handle is None:
            return
        handle.job.name = name
        row = self.rows.get(handle.job.pk)
        if row is None:
            # Django's own answer, after which it lets a transaction only be rolled back.
            with pytest.raises(DatabaseError), transaction.atomic():
                handle.job.save(update_fields=["name"])
            return
        handle.job.save(update_fields=["name"])
        row.name = name

    def learn_status(self, handle: Handle) -> bool:
        """Let a partial instance learn its status, as any access does.

        Return False where its row is gone: then Django says so, whichever column is asked for.
        """
        row = self.rows.get(handle.job.pk)
        if handle.partial and row is None:
            return False
        if handle.status is None and row is not None:
            handle.status, handle.change = row.status, row.change
            assert handle.job.status == row.status
        return True

    # Many rows at once, and past the instances

    @rule(to=TARGETS, actor=ACTORS)
    def move_all(self, to: str, actor: str) -> None:
        moving = {pk for pk, row in self.rows.items() if (row.status, to) in LEGAL}
        refused = {pk: row.status for pk, row in self.rows.items() if pk not in moving}
        result = ContainerJob.objects.order_by("pk").transition_to(to, actor=actor)
        assert (result.changed, result.refused) == (len(moving), refused)
        for pk in sorted(moving):
            self.moved(pk, to, actor=actor)

    @rule(to=TARGETS)
    def update_all(self, to: str) -> None:
        rows = ContainerJob.objects.exclude(status=to)
        self.write_past(list(self.rows), to, lambda: rows.update(status=to, **columns_for(to)))

    @rule(pk=jobs, to=TARGETS)
    def raw_sql(self, pk: Any, to: str) -> None:
        self.write_past([pk], to, lambda: self.execute_update(pk, to))

    def execute_update(self, pk: Any, to: str) -> None:
        meta = ContainerJob._meta
        values = {"status": to, **columns_for(to)}
        adapted = [meta.get_field(name).get_db_prep_save(value, connection) for name, value in values.items()]
        key = meta.pk.get_db_prep_save(pk, connection)
        assignments = ", ".join(f"{name} = %s" for name in values)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {meta.db_table} SET {assignments} WHERE id = %s AND status <> %s", [*adapted, key, to]
            )

    @rule(pk=jobs, to=TARGETS)
    def bulk_update_of_a_fresh_instance(self, pk: Any, to: str) -> None:
        columns = columns_for(to)
        fresh = ContainerJob(pk=pk, status=to, **columns)
        if pk in self.rows and self.rows[pk].status != to:
            self.write_past([pk], to, lambda: ContainerJob.objects.bulk_update([fresh], ["status", *columns]))

    def write_past(self, keys: list[Any], to: str, act: Callable[[], object]) -> None:
        """Change statuses in a way that only the database watches over."""
        moving = [pk for pk in keys if pk in self.rows and self.rows[pk].status != to]
        if all((self.rows[pk].status, to) in LEGAL for pk in moving):
            act()
            for pk in moving:
                self.moved(pk, to, told=False)
        else:
            with pytest.raises(IntegrityError), transaction.atomic():
                act()

    @rule(handle=handles, to=TARGETS)
    def bulk_update_of_a_loaded_instance(self, handle: Handle | None, to: str) -> None:
        if handle is None or handle.unsaved is not None or handle.status is None:
            return
        pk, columns = handle.job.pk, columns_for(to)
        loaded = copy.copy(handle.job)
        for name, value in {"status": to, **columns}.items():
            setattr(loaded, name, value)
        if pk in self.rows and self.rows[pk].status != to:
            self.write_past([pk], to, lambda: ContainerJob.objects.bulk_update([loaded], ["status", *columns]))
            if self.rows[pk].status == to:
                handle.job, handle.status, handle.change = loaded, to, self.rows[pk].change
                handle.whole = False

    # Transactions

    @rule()
    @precondition(lambda self: len(self.transactions) < 3)
    def begin(self) -> None:
        block = transaction.atomic()
        block.__enter__()
        self.transactions.append((block, copy.deepcopy(self.rows), self.expected_signals))
        self.expected_signals = []

    @rule(commit=st.booleans())
    @precondition(lambda self: self.transactions)
    def end(self, commit: bool) -> None:
        block, rows, signals = self.transactions.pop()
        if not commit:
            transaction.set_rollback(True)
            self.rows, self.expected_signals = rows, []
        block.__exit__(None, None, None)
        self.expected_signals = signals + self.expected_signals

    # What must be so after every step

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        found = {pk: (status, name) for pk, status, name in ContainerJob.objects.values_list("pk", "status", "name")}
        assert found == {pk: (row.status, row.name) for pk, row in self.rows.items()}

    @invariant()
    def each_journal_is_one_path_to_the_present(self) -> None:
        journal: dict[Any, list[tuple[str, str, str]]] = {pk: [] for pk in self.rows}
        for row in JobTransition.objects.order_by("pk"):
            journal[row.job_id].append((row.from_status, row.to_status, row.actor))
        assert journal == {pk: row.journal for pk, row in self.rows.items()}
        for row in self.rows.values():
            path = [row.first, *(step[1] for step in row.journal)]
            assert [step[:2] for step in row.journal] == list(pairwise(path))
            assert set(pairwise(path)) <= LEGAL
            assert path[-1] == row.status

    @invariant()
    def instances_in_step_are_as_their_rows(self) -> None:
        guarded = machine_of(ContainerJob).guarded
        rows = {row["id"]: row for row in ContainerJob.objects.values("id", *guarded)}
        for handle in self.held:
            job, row = handle.job, self.rows.get(handle.job.pk)
            assert vars(job).get("status") == handle.shown
            if handle.whole and not handle.unsaved and row is not None and row.change == handle.change:
                assert {name: vars(job)[name] for name in guarded} == {name: rows[job.pk][name] for name in guarded}

    @invariant()
    def receivers_heard_what_was_committed(self) -> None:
        committed = self.transactions[0][2] if self.transactions else self.expected_signals
        # One statement moves its rows in no order of its own.
        assert sorted(self.seen_signals) == sorted(committed)


@pytest.fixture(params=["one alias", "reads from a replica"])
def aliases(request: pytest.FixtureRequest, settings: Any) -> Iterator[None]:
    """Read and write through one alias, or through two of the same connection."""
    if request.param == "one alias":
        yield
        return
    connections["replica"] = connections[DEFAULT_DB_ALIAS]
    settings.DATABASE_ROUTERS = [PrimaryReplicaRouter()]
    yield
    settings.DATABASE_ROUTERS = []
    del connections["replica"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize("histories", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_random_histories_agree_with_the_model(histories: int) -> None:
    run_state_machine_as_test(
        JobMachine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=30,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
