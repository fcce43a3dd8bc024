"""Who may name which secret, how a job gets it, and that its value is stored nowhere."""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings, app_settings
from container_manager.executors.base import Capabilities, DependencyUnavailable, LaunchSpec
from container_manager.executors.process import ProcessExecutor
from container_manager.executors.registry import build_executors
from container_manager.executors.secret_files import SecretFiles, is_in_memory
from container_manager.models import ContainerJob, JobAttempt
from container_manager.worker import WorkerLoop, WorkerOptions

from .jobs import row_of
from .test_runs import SurvivingEngine, claimed, runs_on

VALUE = "correct horse"
# Of Django's own permissions.
PERMISSION = "auth.view_group"
EDITORS = ("add_containerjob", "change_containerjob", "view_containerjob", "see_environment")
SECRETS = {"env:CM_SECRET_PLAIN*": "", "file:shop-*": PERMISSION, "file:*": ""}
GUARDED = {"command": "true", "secrets": {"TOKEN": "file:shop-token"}}
OPEN = {"command": "true", "secrets": {"TOKEN": "env:CM_SECRET_PLAIN_TOKEN"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of secrets; the settings allow some of them."""
    monkeypatch.setenv("CM_SECRET_PLAIN_TOKEN", VALUE)
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "shop-token").write_text(f"{VALUE}\n")
    (folder / "key").write_bytes(b"\xff\0binary\n")
    settings = {"SECRETS": SECRETS, "SECRETS_DIRECTORY": str(folder), "RETRY": {"INITIAL_SECONDS": 0.01}}
    with override_settings(CONTAINER_MANAGER=settings):
        yield folder


def user_who_may(*codenames: str, name: str) -> User:
    user = User.objects.create_user(name, is_staff=True)
    # A flush takes them along.
    for app in ("auth", "container_manager"):
        create_permissions(apps.get_app_config(app), verbosity=0)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


@pytest.fixture
def allowed() -> User:
    return user_who_may("view_group", *EDITORS, name="allowed")


@pytest.fixture
def other() -> User:
    return user_who_may(*EDITORS, name="other")


def work(**executors: Any) -> None:
    """Run what is queued."""
    settings = app_settings()
    WorkerLoop(
        settings=settings, executors=executors or build_executors(settings), options=WorkerOptions(drain=True)
    ).run()


@pytest.mark.django_db
@pytest.mark.shows("reference/jobs.md#secrets")
class TestAllowList:
    @pytest.mark.parametrize("field", ["secrets", "secret_files"])
    def test_without_the_setting_no_job_may_name_a_secret(self, field: str) -> None:
        with pytest.raises(ValidationError, match="Allowed by the setting SECRETS: none"):
            queue.enqueue(command="true", **{field: {"TOKEN": "file:token"}})

    def test_the_default_folder_is_not_that_of_the_workers_own_secrets(self) -> None:
        assert AppSettings().secrets_directory != "/run/secrets"

    @pytest.mark.usefixtures("folder")
    def test_a_secret_without_a_permission_needs_no_user(self) -> None:
        assert queue.enqueue(**OPEN).status == "queued"
        with pytest.raises(ValidationError, match="is not allowed"):
            queue.enqueue(command="true", secrets={"TOKEN": "env:CM_SECRET_OTHER"})

    @pytest.mark.usefixtures("folder")
    def test_a_guarded_secret_is_for_users_who_have_its_permission(self, allowed: User, other: User) -> None:
        for actor in (None, "", other, AnonymousUser(), object()):
            with pytest.raises(ValidationError, match=PERMISSION):
                queue.enqueue(**GUARDED, actor=actor)
            with pytest.raises(ValidationError, match=PERMISSION):
                queue.enqueue_many([ContainerJob(**GUARDED)], actor=actor)
            with pytest.raises(ValidationError, match=PERMISSION):
                ContainerJob.objects.create_job(**GUARDED, actor=actor)
        assert queue.enqueue(**GUARDED, actor=allowed).created_by == "allowed"
        assert [job.created_by for job in queue.enqueue_many([ContainerJob(**GUARDED)], actor=allowed)] == ["allowed"]
        assert ContainerJob.objects.create_job(**GUARDED, actor=allowed).created_by == "allowed"

    @pytest.mark.usefixtures("folder")
    def test_code_of_the_project_may_use_a_guarded_secret_without_a_user(self) -> None:
        assert queue.enqueue(**GUARDED, actor="nightly reports").created_by == "nightly reports"
        call_command("container", "submit", "--secret-file", "t=file:shop-token", "--", "true", stdout=io.StringIO())
        assert ContainerJob.objects.get(created_by="command line").secret_files == {"t": "file:shop-token"}

    @pytest.mark.usefixtures("folder")
    def test_a_retry_needs_no_new_permission_for_its_secrets(self, allowed: User) -> None:
        job = queue.enqueue(**GUARDED, actor=allowed)
        ContainerJob.objects.filter(pk=job.pk).transition_to("cancelled")
        assert queue.retry(ContainerJob.objects.get(pk=job.pk), actor="anybody").secrets == GUARDED["secrets"]

    @pytest.mark.usefixtures("folder")
    def test_the_admin_asks_for_the_permission_of_whoever_adds_or_changes_the_job(
        self, allowed: User, other: User
    ) -> None:
        data: dict[str, Any] = {
            "name": "n", "command": "true", "environment": "{}", "secrets": '{"TOKEN": "file:shop-token"}',
            "secret_files": "{}", "labels": "{}", "grace_seconds": 10, "executor": "default", "queue": "default",
            "priority": 50, "max_retries": 3, "unique_until": "finished",
        }  # fmt: skip
        for prefix in ("transitions", "attempts"):
            data.update({f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0})
        mine, theirs = Client(), Client()
        mine.force_login(allowed)
        theirs.force_login(other)
        add = reverse("admin:container_manager_containerjob_add")
        assert PERMISSION in theirs.post(add, data).content.decode()
        assert mine.post(add, data).status_code == 302
        job = ContainerJob.objects.get()
        change = reverse("admin:container_manager_containerjob_change", args=[job.pk])
        assert PERMISSION in theirs.post(change, {**data, "command": "env"}).content.decode()
        assert row_of(job)["command"] == "true"
        assert mine.post(change, {**data, "command": "env"}).status_code == 302
        # Nothing of a queued job can be changed, so nobody is asked for anything.
        job.refresh_from_db()
        job.mark_as_queued()
        assert theirs.post(change, data).status_code == 302

    @pytest.mark.parametrize(
        "given",
        [
            ["file:a"],
            {"file:a": None},
            {"HOME": ""},
            {"env:HOME": ""},
            {"file:a": "x"},
            {"file:a/b": ""},
            {"kubernetes:*": ""},
        ],
    )
    @pytest.mark.without_database
    def test_an_invalid_allow_list_of_secrets_is_refused(self, given: Any) -> None:
        with (
            override_settings(CONTAINER_MANAGER={"SECRETS": given}),
            pytest.raises(ImproperlyConfigured, match="SECRETS"),
        ):
            app_settings()


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("reference/jobs.md#secrets")
class TestDelivery:
    @pytest.mark.usefixtures("folder")
    def test_a_local_process_finds_secret_files_in_its_own_folder_that_is_removed_afterwards(self) -> None:
        script = 'cd "$CONTAINER_MANAGER_SECRETS" && pwd && stat -c %a key && od -An -c key && stat -f -c %T .'
        job = queue.enqueue(
            command=f"sh -c '{script}'", secret_files={"key": "file:key", "t": "env:CM_SECRET_PLAIN_TOKEN"}
        )
        work()
        job.refresh_from_db()
        assert job.status == "completed", job.last_error
        where, mode, *content, kind = job.output().decode().splitlines()
        assert (mode, kind) == ("444", "tmpfs")
        assert "".join(content).split() == ["377", r"\0", "b", "i", "n", "a", "r", "y", r"\n"]
        assert not Path(where).parent.exists()

    @pytest.mark.usefixtures("folder")
    def test_secret_values_are_in_no_table(self) -> None:
        script = (
            'echo "$TOKEN"; cat "$CONTAINER_MANAGER_SECRETS/t" >&2; printf correct; sleep 0.1; echo " horse"; exit 3'
        )
        job = queue.enqueue(
            command=f"sh -c '{script}'", max_retries=0, actor="test",
            secrets={"TOKEN": "env:CM_SECRET_PLAIN_TOKEN"}, secret_files={"t": "file:shop-token"},
        )  # fmt: skip
        work()
        job.refresh_from_db()
        assert (job.output(stream="stdout"), job.output(stream="stderr")) == (b"***\n***\n", b"***\n")
        rows = [row_of(job), *JobAttempt.objects.values(), *job.transitions.values()]
        assert VALUE not in repr(rows)

    @pytest.mark.usefixtures("folder")
    def test_a_secret_value_is_masked_in_an_error_that_quotes_it_and_in_its_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Quoting(ProcessExecutor):
            def submit(self, spec: LaunchSpec) -> str:
                told = spec.environment["TOKEN"]
                try:
                    raise ValueError(f"No number: {told}")
                except ValueError as error:
                    raise RuntimeError(f"Bad variable TOKEN={told}") from error

        job = queue.enqueue(**OPEN, max_retries=0)
        work(default=Quoting())
        assert row_of(job)["last_error"].startswith("The executor failed: RuntimeError: Bad variable TOKEN=***")
        assert "ValueError: No number: ***" in caplog.text
        assert VALUE not in caplog.text

    def test_masking_can_be_switched_off(self, folder: Path) -> None:
        settings = {"SECRETS": SECRETS, "SECRETS_DIRECTORY": str(folder), "MASK_SECRETS": False}
        with override_settings(CONTAINER_MANAGER=settings):
            job = queue.enqueue(**{**OPEN, "command": "sh -c 'echo $TOKEN'"})
            work()
        assert job.output() == f"{VALUE}\n".encode()

    @pytest.mark.usefixtures("folder")
    def test_the_worker_gives_no_secret_to_a_row_that_no_check_has_seen(self) -> None:
        job = ContainerJob(
            command="true",
            secrets={"A": "env:CM_SECRET_OTHER"},
            max_retries=0,
            status="queued",
            queued_at=timezone.now(),
        )
        ContainerJob.objects.bulk_create([job])
        work()
        assert "'env:CM_SECRET_OTHER' is not allowed" in row_of(job)["last_error"]

    @pytest.mark.shows("reference/jobs.md#secrets")
    @pytest.mark.parametrize("field", ["environment", "secrets"])
    @pytest.mark.usefixtures("folder")
    def test_a_job_cannot_pretend_to_be_another(self, field: str) -> None:
        given = {"CONTAINER_MANAGER_JOB": "env:CM_SECRET_PLAIN_TOKEN"}
        with pytest.raises(ValidationError, match="names that begin with CONTAINER_MANAGER_ are the worker's"):
            queue.enqueue(command="true", **{field: given})


@pytest.mark.without_database
class TestFolders:
    @pytest.fixture
    def memory(self) -> Iterator[Path]:
        path = Path("/dev/shm") / f"cm-test-{os.getpid()}"  # noqa: S108
        path.mkdir(mode=0o755)
        yield path
        shutil.rmtree(path)

    def test_secret_folders_are_closed_to_other_users_and_read_only_for_the_job(self, memory: Path) -> None:
        files = SecretFiles(memory, survive=True)
        placed = files.place("key-1", {"a": b"1"})
        assert (placed / "a").read_bytes() == b"1"
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (placed.parent.parent, placed, placed / "a")]
        assert modes == [0o700, 0o755, 0o444]

    def test_existing_secret_files_stay_unchanged(self, memory: Path) -> None:
        """A container may have their folder mounted."""
        files = SecretFiles(memory, survive=True)
        placed = files.place("key-1", {"a": b"1"})
        inode = placed.stat().st_ino
        assert SecretFiles(memory, survive=True).place("key-1", {"a": b"2"}) == placed
        assert ((placed / "a").read_bytes(), placed.stat().st_ino) == (b"1", inode)
        SecretFiles(memory, survive=True).remove("key-1")
        assert list(placed.parent.iterdir()) == []

    def test_secret_folders_of_a_killed_process_are_removed_and_those_of_a_live_process_stay(
        self, memory: Path
    ) -> None:
        killed, live = SecretFiles(memory, survive=False), SecretFiles(memory, survive=False)
        left = killed.place("key-1", {"a": b"1"})
        # The kernel does this when a process ends.
        os.close(killed._lock)  # type: ignore[arg-type]
        kept = live.place("key-2", {"a": b"1"})
        assert not left.exists()
        last = SecretFiles(memory, survive=False)
        placed = last.place("key-3", {"a": b"1"})
        assert kept.exists()
        last.close()
        live.close()
        assert not placed.exists()
        assert not kept.exists()

    def test_a_secret_folder_of_another_user_or_open_to_others_is_not_used(self, memory: Path) -> None:
        (memory / f"container-manager-{os.geteuid()}").mkdir(mode=0o777)
        (memory / f"container-manager-{os.geteuid()}").chmod(0o777)
        with pytest.raises(DependencyUnavailable, match="not a folder that only this user can enter"):
            SecretFiles(memory, survive=True).place("key-1", {"a": b"1"})

    def test_secret_files_are_never_written_to_a_disk(self, tmp_path: Path) -> None:
        if is_in_memory(tmp_path):
            tmp_path = Path("/usr")
        with pytest.raises(DependencyUnavailable, match=r"is no tmpfs.*SECRET_FILES_DIRECTORY"):
            SecretFiles(tmp_path, survive=True).place("key-1", {"a": b"1"})

    def test_a_launch_whose_secret_files_cannot_be_written_is_retried_and_leaves_nothing(self, tmp_path: Path) -> None:
        path = Path("/usr") if is_in_memory(tmp_path) else tmp_path
        settings = replace(AppSettings(), secret_files_directory=str(path))
        executor = ProcessExecutor.from_settings({}, settings)
        try:
            with pytest.raises(DependencyUnavailable):
                executor.submit(LaunchSpec(key="cm-test-1", argv=("true",), secret_files={"a": b"1"}))
            assert executor.observe().attempts == []
        finally:
            executor.close()


@pytest.mark.without_database
@pytest.mark.usefixtures("folder")
def test_the_output_of_a_job_without_secrets_is_not_masked() -> None:
    runs = runs_on(SurvivingEngine(), app_settings())
    runs.take_on(claimed())
    (run,) = runs
    assert run.mask is None


@pytest.mark.without_database
@pytest.mark.usefixtures("folder")
def test_an_executor_without_secret_files_rejects_a_job_with_secret_files() -> None:
    engine = SurvivingEngine()
    runs, job = runs_on(engine, app_settings()), claimed()
    runs.take_on(job._replace(spec=job.spec._replace(secret_files={"key": "file:key"})))
    runs.turn()
    (run,) = runs
    assert run.outcome is not None
    assert (run.outcome.status, run.outcome.reason, engine.asked) == ("failed", "start", [])
    assert "does not deliver" in run.outcome.message


class SecretEngine(SurvivingEngine):
    """One that holds secrets itself, as a cluster does."""

    capabilities: ClassVar[Capabilities] = replace(SurvivingEngine.capabilities, secret_files=True, engine_secrets=True)

    def submit(self, spec: LaunchSpec) -> str:
        self.spec = spec
        return super().submit(spec)


@pytest.mark.without_database
@pytest.mark.parametrize("column", ["secrets", "secret_files"])
@override_settings(CONTAINER_MANAGER={"SECRETS": {"kubernetes:mail/*": ""}})
def test_a_secret_that_the_engine_holds_is_read_by_no_worker(column: str) -> None:
    engine, job = SecretEngine(), claimed()
    runs = runs_on(engine, app_settings())
    runs.take_on(job._replace(spec=job.spec._replace(**{column: {"KEY": "kubernetes:mail/password"}})))
    assert getattr(engine.spec.job, column) == {"KEY": "kubernetes:mail/password"}
    assert ("KEY" in engine.spec.environment, dict(engine.spec.secret_files)) == (False, {})


@pytest.mark.without_database
@pytest.mark.parametrize("column", ["secrets", "secret_files"])
@override_settings(CONTAINER_MANAGER={"SECRETS": {"kubernetes:mail/*": ""}})
def test_an_executor_without_secrets_of_its_engine_rejects_a_job_that_names_one(column: str) -> None:
    engine, job = SurvivingEngine(), claimed()
    runs = runs_on(engine, app_settings())
    runs.take_on(job._replace(spec=job.spec._replace(**{column: {"KEY": "kubernetes:mail/password"}})))
    runs.turn()
    (run,) = runs
    assert run.outcome is not None
    assert (run.outcome.status, run.outcome.reason, engine.asked) == ("failed", "start", [])
    assert "'kubernetes:mail/password' is a cluster's, which only a Kubernetes executor has" in run.outcome.message


@pytest.mark.without_database
@pytest.mark.parametrize(
    "reference", ["kubernetes:mail", "kubernetes:mail/a/b", "kubernetes:Mail/a", "kubernetes:mail/.."]
)
@override_settings(CONTAINER_MANAGER={"SECRETS": {"kubernetes:*/*": ""}})
def test_an_invalid_name_of_a_cluster_secret_is_refused(reference: str) -> None:
    runs, job = runs_on(SurvivingEngine(), app_settings()), claimed()
    runs.take_on(job._replace(spec=job.spec._replace(secrets={"KEY": reference})))
    runs.turn()
    (run,) = runs
    assert run.outcome is not None
    assert (run.outcome.status, run.outcome.reason) == ("failed", "start")


@pytest.mark.without_database
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("reference", "said"), [("env:CM_SECRET_PLAIN_TOKEN", "***"), ("env:CM_SECRET_GONE", VALUE)])
def test_the_output_of_an_adopted_attempt_is_masked_as_far_as_its_secrets_can_be_read(
    reference: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = claimed()
    job = job._replace(spec=job.spec._replace(secrets={"TOKEN": reference}))
    runs = runs_on(SurvivingEngine(), app_settings())
    runs.adopt(store.OwnedAttempt(job=job, status="running", handle="h", claimed_by="another"), by="w")
    (run,) = runs
    assert run.masked(f"it said {VALUE}") == f"it said {said}"
    assert ("is not masked" in caplog.text) is (said == VALUE)


@pytest.mark.without_database
@pytest.mark.usefixtures("folder")
def test_the_output_of_an_adopted_attempt_is_masked_whatever_else_is_wrong_with_its_job() -> None:
    job = claimed()
    odd = {"labels": {"team": "a\nb"}, "command": "echo 'unquoted"}
    job = job._replace(spec=job.spec._replace(secrets={"TOKEN": "env:CM_SECRET_PLAIN_TOKEN"}, **odd))
    runs = runs_on(SurvivingEngine(), app_settings())
    runs.adopt(store.OwnedAttempt(job=job, status="running", handle="h", claimed_by="another"), by="w")
    (run,) = runs
    assert run.masked(f"it said {VALUE}") == "it said ***"
