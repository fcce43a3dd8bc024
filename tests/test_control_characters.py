"""Texts that would forge lines are refused where they are given, and printed escaped where they are in the tables."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from container_manager import queue
from container_manager.cli.verbs import VERBS
from container_manager.conf import AppSettings, setting_problems
from container_manager.executors.base import LaunchSpec
from container_manager.executors.process import ProcessExecutor
from container_manager.jobs.printable import LINES, check_printable
from container_manager.models import ContainerJob, PausedQueue
from container_manager.worker import WorkerLoop, WorkerOptions

from .jobs import job_in, journal_of

pytestmark = pytest.mark.django_db

FORGED = "01a2240e-FORGED  completed"
# What would clear a line, begin another and turn the rest of it round; no more than a queue's name may have.
EVIL = f"x\x1b[2K\r\n{FORGED}\n\u202egnp"
FIELDS: dict[str, dict[str, Any]] = {
    "name": {"name": EVIL},
    "image": {"image": EVIL},
    "working directory": {"working_directory": EVIL},
    "executor": {"executor": EVIL},
    "queue": {"queue": EVIL},
    "created by": {"created_by": EVIL},
    "command": {"command": "echo \x1b[2K"},
    "direction of a command": {"command": "echo \u202e"},
    "name of a variable": {"environment": {"A\u202e": "x"}},
    "value of a variable": {"environment": {"A": "\x1b[2K"}},
    "lines of a variable": {"environment": {"A": "1\n2"}},
    "name of a secret": {"secrets": {"A\u202e": "env:CM_SECRET_A"}},
    "reference of a secret": {"secrets": {"A": "env:CM_SECRET_\x1b"}},
    "reference of a secret's file": {"secret_files": {"a": "file:\u202e"}},
    "name of a secret's file": {"secret_files": {"a\nb": "env:CM_SECRET_A"}},
    "name of a label": {"labels": {EVIL: "x"}},
    "value of a label": {"labels": {"x": EVIL}},
    "name of a volume": {"container": {"volumes": {EVIL: "/a"}}},
    "path of a volume": {"container": {"volumes": {"a": "/\x1b"}}},
    "path of a tmpfs": {"container": {"tmpfs": {"/\u202e": 1}}},
    "user": {"container": {"user": EVIL}},
    "entrypoint": {"container": {"entrypoint": "sh \x1b[2K"}},
    "name of a host": {"container": {"extra_hosts": [EVIL]}},
    "DNS server": {"container": {"dns": ["::1\n"]}},
    "platform": {"container": {"platform": "linux/amd64\n"}},
    "network": {"container": {"network": EVIL}},
}


def is_plain(text: str) -> bool:
    """Tell whether a text shows nothing but its own lines."""
    try:
        check_printable(text, allowed=LINES.replace("\r", ""))
    except ValueError:
        return False
    return not any(line.startswith(FORGED) for line in text.splitlines())


@pytest.mark.without_database
@pytest.mark.shows("reference/jobs.md#characters")
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@override_settings(CONTAINER_MANAGER={"SECRETS": {"env:CM_SECRET_*": "", "file:*": ""}})
def test_control_characters_are_refused_wherever_a_job_is_submitted(fields: dict[str, Any]) -> None:
    asked = {"command": "true", **fields}
    ways: list[Callable[[], object]] = [
        ContainerJob(**asked).full_clean,
        lambda: queue.enqueue(**asked),
        lambda: queue.enqueue_many([ContainerJob(**asked)]),
        lambda: ContainerJob.objects.create_job(**asked),
    ]
    for way in ways:
        with pytest.raises(ValidationError) as error:
            way()
        assert is_plain(" ".join(error.value.messages))
    assert not ContainerJob.objects.exists()


@pytest.mark.shows("reference/jobs.md#characters")
def test_a_command_may_be_a_script_and_a_variable_may_have_tabs() -> None:
    script = "sh -c 'if true; then\n\techo ä\r\nfi'"
    job = queue.enqueue(command=script, environment={"IFS": " \t"}, name="naïve 名前")
    job.refresh_from_db()
    assert (job.command, job.environment) == (script, {"IFS": " \t"})


def test_the_queue_refuses_control_characters_in_reasons_users_and_queue_names() -> None:
    job = job_in("failed")
    for words in ({"reason": "\x1b[2K"}, {"actor": EVIL}, {"actor": User(username=EVIL)}):
        with pytest.raises(ValidationError):
            queue.retry(job, **words)  # type: ignore[arg-type]
    for words in ({"name": EVIL}, {"name": "q", "by": EVIL}):
        with pytest.raises(ValidationError):
            queue.pause_queue(**words)  # type: ignore[arg-type]
    assert not PausedQueue.objects.exists()
    assert journal_of(job) == []
    queue.retry(job, reason="first line\nsecond line", actor="somebody")
    assert job.transitions.last().reason == "first line\nsecond line"  # type: ignore[union-attr]


@pytest.mark.without_database
def test_settings_refuse_control_characters_in_names_of_queues_and_executors() -> None:
    backend = {"BACKEND": "container_manager.executors.process.ProcessExecutor"}
    with override_settings(CONTAINER_MANAGER={"QUEUES": [EVIL], "EXECUTORS": {EVIL: backend}}):
        problems = setting_problems()
    assert len(problems) == 2
    assert all(map(is_plain, problems))


@pytest.mark.without_database
def test_the_admin_refuses_control_characters_at_the_fields_of_a_job(admin: Client) -> None:
    data = {"name": EVIL, "command": "true", "environment": "{}", "secrets": "{}", "secret_files": "{}", "labels": "{}",
            "grace_seconds": 10, "executor": "default", "queue": EVIL, "priority": 50, "max_retries": 3,
            "unique_until": "finished"}  # fmt: skip
    for prefix in ("transitions", "attempts"):
        data.update({f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0})
    answer = admin.post(reverse("admin:container_manager_containerjob_add"), data)
    assert answer.status_code == 200
    assert answer.content.decode().count("would change how lines are shown") == 2
    assert not ContainerJob.objects.exists()


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def forged() -> ContainerJob:
    """A failed job of whose row, attempt, journal and queue somebody has written every text by SQL."""
    job = job_in("failed")
    attempt = job.attempts.create(
        number=1, worker="w", executor="e", launched_at=timezone.now(), finished_at=timezone.now()
    )
    waiting = queue.enqueue(command="true")
    queue.pause_queue("q")
    with connection.cursor() as cursor:
        for table, columns, key in (
            ("containerjob", "name image command executor queue created_by last_error status_changed_by", "id"),
            ("jobattempt", "worker executor message", "id"),
            ("pausedqueue", "name paused_by", "name"),
        ):
            values = ", ".join(f"{column} = %s" for column in columns.split())
            keys = {"containerjob": (job, waiting), "jobattempt": (attempt,), "pausedqueue": (None,)}[table]
            for row in keys:
                pk = "q" if row is None else row._meta.pk.get_db_prep_value(row.pk, connection)
                texts = [EVIL] * len(columns.split())
                cursor.execute(f"UPDATE container_manager_{table} SET {values} WHERE {key} = %s", [*texts, pk])
        cursor.execute(
            "INSERT INTO container_manager_jobtransition (job_id, from_status, to_status, at, actor, reason) "
            "SELECT id, 'queued', 'running', created_at, name, name FROM container_manager_containerjob WHERE id = %s",
            [ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)],
        )
    return ContainerJob.objects.get(pk=job.pk)


def printed(*words: str) -> str:
    """Return all that a verb prints, its error too."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("container", *words, stdout=out, stderr=err)
    except (CommandError, SystemExit) as error:
        err.write(str(error))
    return out.getvalue() + err.getvalue()


# Of each verb what it prints about the row, and of those that take a text, what they say of it.
SHOWING: dict[str, list[list[str]]] = {
    "run": [["--name", EVIL, "--", "true"], ["--queue", EVIL, "--", "true"], ["--executor", EVIL, "--", "true"]],
    "submit": [["--label", f"a={EVIL}", "--", "true"], ["--env", EVIL, "--", "true"], ["--tmpfs", EVIL, "--", "true"]],
    "worker": [["--executor", EVIL], ["--queue", EVIL, "--slots", "0"]],
    "ps": [["--all"], ["--all", "--json"]],
    "logs": [["ID"], [EVIL], ["no such", "--follow"]],
    "history": [["ID"], ["ID", "--json"]],
    "show": [["ID"], ["ID", "--json"], [EVIL]],
    "explain": [["ID"], ["ID", "--json"], [EVIL]],
    "cancel": [["no\x1bsuch\nFORGED"], ["ID", "--reason", "\x1b[2K"], [EVIL], ["ID", "ID"]],
    "retry": [["ID", "--reason", "\u202e"], [EVIL], ["ID"], ["ID"]],
    "queue": [[], ["--json"], ["--pause", EVIL], ["--resume", EVIL]],
    "stats": [[], ["--json"], ["--queue", EVIL]],
    "top": [[], ["--json"]],
    "executors": [[]],
    "prune": [["--days", "1"], ["--days", "-1"]],
    "doctor": [[], ["--json"]],
    "diagram": [["--job", "ID"], ["--job", EVIL]],
    "triggers": [[]],
    # What it prints is the task's own.
    "run-task": [],
}


@pytest.mark.without_database
@pytest.mark.shows("reference/commands.md#what-is-printed")
@pytest.mark.parametrize("verb", VERBS)
def test_no_command_prints_control_characters_of_the_tables(verb: str, forged: ContainerJob) -> None:
    shown = [printed(verb, *(str(forged.pk) if word == "ID" else word for word in words)) for words in SHOWING[verb]]
    assert [text for text in shown if not is_plain(text)] == []
    if verb in ("ps", "history", "queue", "show"):
        assert r"x\x1b[2K\r\n01a2240e-FORGED  completed\n\u202egnp" in shown[0]


class QuotingExecutor(ProcessExecutor):
    """Says what it was given by the job's author, in an error that nobody expects."""

    def submit(self, spec: LaunchSpec) -> str:
        raise RuntimeError(EVIL)


@pytest.mark.usefixtures("forged")
@pytest.mark.django_db(transaction=True)
def test_no_line_of_a_workers_log_has_control_characters_of_the_tables(caplog: pytest.LogCaptureFixture) -> None:
    job = queue.enqueue(command="true", max_retries=0)
    executors = {"default": QuotingExecutor()}
    with caplog.at_level(logging.INFO, logger="container_manager"):
        WorkerLoop(settings=AppSettings(), executors=executors, options=WorkerOptions(drain=True)).run()
        job.refresh_from_db()
        job.mark_as_cancelled(reason=EVIL, actor=EVIL)
        logging.getLogger("container_manager.worker.maintenance").error("Job %s failed: %s", job.pk, EVIL)
    lines = [logging.Formatter("%(message)s").format(record) for record in caplog.records]
    for said in (
        "An executor failed",
        "No live worker serves",
        "running -> failed",
        "failed -> cancelled",
        "failed: x",
    ):
        assert any(said in line for line in lines), said
    assert [line for line in lines if not is_plain(line)] == []


@pytest.mark.without_database
@pytest.mark.shows("howto/docker.md#let-others-submit-jobs")
def test_no_page_of_the_admin_shows_control_characters_of_the_tables(forged: ContainerJob, admin: Client) -> None:
    for page, arguments in (
        ("changelist", []),
        ("change", [forged.pk]),
        ("delete", [forged.pk]),
        ("history", [forged.pk]),
    ):
        answer = admin.get(reverse(f"admin:container_manager_containerjob_{page}", args=arguments))
        text = answer.content.decode()
        assert r"x\x1b[2K" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
