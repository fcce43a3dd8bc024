"""The ``container`` command: its output, its errors and its exit codes."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from container_manager.cli.log_lines import JsonLines
from container_manager.cli.verbs import VERBS
from container_manager.conf import PROCESS_EXECUTOR
from container_manager.executors.base import Health
from container_manager.executors.process import ProcessExecutor
from container_manager.jobs.package_log import package_logger
from container_manager.models import ContainerJob, JobLog

from .jobs import job_in, journal_of
from .polling import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parent.parent


def container(*words: str) -> str:
    out = io.StringIO()
    call_command("container", *words, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
class TestQueueCommands:
    def test_submit_queues_the_job_it_describes(self) -> None:
        printed = container("submit", "--name", "report", "--env", "A=1=2", "--memory", "2m", "--", "echo", "two words")
        job = ContainerJob.objects.get(pk=printed.strip())
        assert (job.status, job.argv, job.environment) == ("queued", ["echo", "two words"], {"A": "1=2"})
        assert job.memory_bytes == 2 * 1024 * 1024

    def test_submit_stores_the_container_request_of_its_options(self) -> None:
        container(
            "submit", "--image", "busybox", "--label", "team=a", "--user", "5:6", "--network", "inner",
            "--volume", "data:/data", "--tmpfs", "/run:64m", "--pids-limit", "9", "--read-only",
            "--ulimit", "nofile=64", "--ulimit", "nproc=8", "--gpus", "all",
            "--entrypoint", "python -m", "--platform", "linux/arm64", "--shm-size", "1m", "--add-host", "db",
            "--add-host", "cache", "--dns", "192.0.2.1",
        )  # fmt: skip
        job = ContainerJob.objects.get()
        assert job.labels == {"team": "a"}
        assert job.container == {
            "user": "5:6",
            "network": "inner",
            "volumes": {"data": "/data"},
            "tmpfs": {"/run": 64 * 1024 * 1024},
            "pids": 9,
            "read_only": True,
            "ulimits": {"nofile": 64, "nproc": 8},
            "gpus": -1,
            "entrypoint": "python -m",
            "platform": "linux/arm64",
            "shm_bytes": 1024 * 1024,
            "extra_hosts": ["db", "cache"],
            "dns": ["192.0.2.1"],
        }

    def test_submit_leaves_unset_container_options_to_the_executor(self) -> None:
        container("submit", "--no-read-only", "--", "true")
        container("submit", "--", "true")
        assert [job.container for job in ContainerJob.objects.order_by("pk")] == [{"read_only": False}, {}]

    def test_submit_with_a_delay_schedules_the_job(self) -> None:
        container("submit", "--delay", "3600", "--", "true")
        assert ContainerJob.objects.get().queue_status == "scheduled"

    @pytest.mark.without_database
    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["submit"], "a command"),
            (["submit", "--executor", "nope", "--", "true"], "no executor 'nope'"),
            (["submit", "--priority", "101", "--", "true"], "priority"),
            (["submit", "--env", "=x", "--", "true"], "NAME=VALUE"),
            (["submit", "--label", "team", "--", "true"], "NAME=VALUE"),
            (["submit", "--volume", "data", "--", "true"], "NAME:PATH, not 'data'"),
            (["submit", "--volume", "/etc:/etc", "--", "true"], "container: 'volumes' must be"),
            (["submit", "--tmpfs", "/run:much", "--", "true"], "--tmpfs takes PATH:SIZE: 'much' is no size"),
            (["submit", "--ulimit", "nofile=x", "--", "true"], "--ulimit takes NAME=VALUE"),
            (["submit", "--network", "a b", "--", "true"], "container: 'network' must be"),
            (["submit", "--pids-limit", "0", "--", "true"], "container: 'pids' must be a positive number"),
            (["submit", "--gpus", "some", "--", "true"], "neither a number nor"),
            (["submit", "--memory", "1t", "--", "true"], "'1t' is no size"),
            (["cancel", "nobody"], "No job is called 'nobody'"),
            (["worker", "--slots", "0"], "at least 1"),
            (["worker", "--executor", "nope"], "no executor 'nope'"),
        ],
    )
    def test_invalid_arguments_are_named_and_create_no_job(self, words: list[str], text: str) -> None:
        with pytest.raises(CommandError, match=text):
            container(*words)
        assert not ContainerJob.objects.exists()

    def test_ps_lists_unfinished_jobs_and_with_all_the_finished_too(self) -> None:
        job_in("queued", name="waiting")
        job_in("completed", name="done")
        assert "waiting" in container("ps")
        assert "done" not in container("ps")
        assert "done" in container("ps", "--all")
        assert [row["name"] for row in json.loads(container("ps", "--all", "--json"))] == ["waiting", "done"]
        assert [row["name"] for row in json.loads(container("ps", "--status", "completed", "--json"))] == ["done"]

    def test_cancel_and_retry_go_through_the_state_machine(self) -> None:
        failed, done = job_in("failed", name="failed"), job_in("completed", name="done")
        assert "queued" in container("retry", "failed")
        assert journal_of(failed) == [("failed", "retrying"), ("retrying", "queued")]
        with pytest.raises(SystemExit) as refused:
            container("cancel", "done")
        assert refused.value.code == 1
        assert journal_of(done) == []
        container("cancel", str(failed.pk)[:18], "--reason", "enough")
        assert failed.transitions.last().reason == "enough"

    def test_cancel_now_kills_what_runs_also_of_a_job_that_was_cancelled_before(self) -> None:
        job = job_in("running", name="slow", attempt=1)
        attempt = job.attempts.create(number=1, worker="w", executor="default", launched_at=job.launched_at)
        container("cancel", "slow")
        attempt.refresh_from_db()
        assert attempt.kill_requested_at is None
        container("cancel", "slow", "--now")
        attempt.refresh_from_db()
        assert attempt.kill_requested_at is not None
        assert journal_of(job) == [("running", "cancelled")]
        with pytest.raises(SystemExit):
            container("cancel", "slow")

    def test_history_prints_actors_and_reasons(self) -> None:
        job = job_in("pending", name="told")
        job.mark_as_queued(actor="alice", reason="monthly")
        assert "alice" in container("history", "told")
        assert json.loads(container("history", "told", "--json"))[0]["reason"] == "monthly"

    def test_logs_prints_both_streams_or_the_chosen_one(self) -> None:
        job = job_in("running", name="noisy", attempt=1)
        attempt = job.attempts.create(number=1, worker="w", executor="default", launched_at=job.launched_at)
        for sequence, (stream, data) in enumerate([("stdout", b"out\n"), ("stderr", b"err \xff\n")]):
            JobLog.objects.create(attempt=attempt, sequence=sequence, stream=stream, data=data)
        assert container("logs", "noisy") == "out\nerr \ufffd\n"
        assert container("logs", "noisy", "--stream", "stdout") == "out\n"

    def test_the_diagram_has_every_edge_and_marks_a_jobs_status(self) -> None:
        job = job_in("running", name="here")
        drawn = container("diagram", "--job", "here")
        assert drawn.count("-->") == sum(map(len, job.VALID_TRANSITIONS.values())) + 3
        assert "current" in drawn
        assert '"running" -> "completed"' in container("diagram", "--format", "dot")


class WeakExecutor(ProcessExecutor):
    """Runs jobs, but cannot hold a limit."""

    def check(self) -> Health:
        return Health(ok=True, message="", warnings=["The limit pids is not in force."])


class TestExecutors:
    @pytest.mark.without_database
    def test_executors_prints_the_class_of_a_healthy_executor(self) -> None:
        with override_settings(CONTAINER_MANAGER={}):
            assert "ProcessExecutor" in container("executors")
            [found] = json.loads(container("executors", "--json"))
        assert (found["alias"], found["class"], found["ok"]) == ("default", PROCESS_EXECUTOR, True)

    @pytest.mark.without_database
    def test_executors_prints_what_an_engine_cannot_do(self) -> None:
        given = {"EXECUTORS": {"weak": {"BACKEND": f"{__name__}.WeakExecutor"}}, "INSTALL": "here"}
        with override_settings(CONTAINER_MANAGER=given):
            assert container("executors").splitlines()[-1] == "weak: The limit pids is not in force."
            [found] = json.loads(container("executors", "--json"))
        assert (found["ok"], found["warnings"]) == (True, ["The limit pids is not in force."])

    @pytest.mark.without_database
    @pytest.mark.parametrize(
        ("entry", "text"),
        [
            ({"BACKEND": "no.such.Class"}, "cannot be imported"),
            ({"BACKEND": PROCESS_EXECUTOR, "OPTIONS": {"x": 1}}, "'x'"),
        ],
    )
    def test_executors_exits_with_1_and_advice_if_one_is_not_healthy(self, entry: dict[str, object], text: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        given = {"EXECUTORS": {"default": {"BACKEND": PROCESS_EXECUTOR}, "ill": entry}, "INSTALL": "here"}
        with override_settings(CONTAINER_MANAGER=given), pytest.raises(SystemExit) as ended:
            call_command("container", "executors", stdout=out, stderr=err)
        assert ended.value.code == 1
        lines = {line.split()[0]: line for line in out.getvalue().splitlines()}
        assert lines["default"].split()[1] == "yes"
        assert lines["ill"].split()[1] == "NO"
        assert text in lines["ill"]
        assert "Correct its entry in CONTAINER_MANAGER['EXECUTORS']" in err.getvalue()


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """An environment without a Django project, with a database file of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**kept, "CONTAINER_MANAGER_DATABASE": str(tmp_path / "jobs.sqlite3"), "PYTHONPATH": str(ROOT)}


def standalone(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "container_manager", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=Path(environment["CONTAINER_MANAGER_DATABASE"]).parent,
    )


@pytest.mark.without_database
class TestWithoutProject:
    def test_run_prints_the_output_and_exits_with_the_commands_exit_code(self, alone: dict[str, str]) -> None:
        done = standalone(alone, "run", "--name", "first", "--", "sh", "-c", "echo from the job; echo more >&2; exit 5")
        assert (done.returncode, done.stdout) == (5, "from the job\n")
        assert done.stderr.startswith("more\n")
        assert "Exit code 5" in done.stderr
        listed = standalone(alone, "ps", "--all", "--json")
        assert [(row["name"], row["status"], row["exit_code"]) for row in json.loads(listed.stdout)] == [
            ("first", "failed", 5)
        ]
        # Here is no project, whose database it might be taken for.
        assert listed.stderr == ""

    def test_the_standalone_command_inside_a_project_says_that_its_database_is_not_the_projects(
        self, alone: dict[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / "manage.py").touch()
        done = standalone(alone, "triggers")
        assert "cm_job_journal is as the map says" in done.stdout
        path = alone["CONTAINER_MANAGER_DATABASE"]
        told = f"Using {path}, not this project's database: for that, 'python manage.py container …'.\n"
        assert done.stderr == told

    def test_the_standalone_command_with_settings_of_a_project_names_their_database(
        self, alone: dict[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / "of_a_project.py").write_text(
            f"""
INSTALLED_APPS = ["container_manager"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{tmp_path}/the_projects.sqlite3"}}}}
""",
            encoding="utf-8",
        )
        path = f"{alone['PYTHONPATH']}:{tmp_path}"
        done = standalone({**alone, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "of_a_project"}, "triggers")
        assert "ContainerJob: no table" in done.stdout
        assert (
            f"Using the settings of_a_project, whose default database is {tmp_path}/the_projects.sqlite3."
            in done.stderr
        )
        assert done.returncode == 1

    def test_run_of_a_missing_program_names_the_error(self, alone: dict[str, str]) -> None:
        done = standalone(alone, "run", "--", "no-such-program")
        assert done.returncode == 1
        assert "No such file" in done.stderr

    @pytest.mark.slow
    def test_run_of_a_job_that_asks_for_isolation_fails_in_a_local_process(self, alone: dict[str, str]) -> None:
        done = standalone(alone, "run", "--network", "inner", "--pids-limit", "1", "--", "true")
        assert done.returncode == 1
        assert "cannot have what the job asks for: pids, network" in done.stderr

    def test_an_option_of_local_processes_lets_jobs_run_without_the_isolation_they_ask_for(
        self, alone: dict[str, str], tmp_path: Path
    ) -> None:
        config = tmp_path / "config.toml"
        config.write_text(
            f'[EXECUTORS.default]\nBACKEND = "{PROCESS_EXECUTOR}"\n[EXECUTORS.default.OPTIONS]\nignore_isolation = true\n'
        )
        open_ones = {**alone, "CONTAINER_MANAGER_CONFIG": str(config)}
        assert standalone(open_ones, "run", "--network", "inner", "--image", "busybox", "--", "true").returncode == 0

    def test_interrupting_run_cancels_the_job_and_ends_its_process(self, alone: dict[str, str], tmp_path: Path) -> None:
        command = [sys.executable, "-m", "container_manager", "run", "--", "sh", "-c", "echo $$; exec sleep 600"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=alone, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            pid = running.stdout.readline().strip()
            running.send_signal(signal.SIGINT)
            rest = running.stderr.read()
        assert "cancelled" in rest
        assert running.returncode == 130
        assert not Path(f"/proc/{pid}").exists()

    @pytest.mark.slow
    def test_a_draining_worker_completes_all_submitted_jobs(self, alone: dict[str, str]) -> None:
        for name in ("first", "second"):
            standalone(alone, "submit", "--name", name, "--", "true")
        assert standalone(alone, "worker", "--drain", "--log-level", "ERROR").returncode == 0
        assert {row["status"] for row in json.loads(standalone(alone, "ps", "-a", "--json").stdout)} == {"completed"}

    @pytest.mark.slow
    def test_a_worker_that_gets_sigterm_finishes_its_running_job_and_leaves_the_next_one_queued(
        self, alone: dict[str, str], tmp_path: Path
    ) -> None:
        started, go = tmp_path / "started", tmp_path / "go"
        os.mkfifo(started)
        os.mkfifo(go)
        standalone(alone, "submit", "--name", "slow", "--", "sh", "-c", f"echo > {started}; read word < {go}")
        standalone(alone, "submit", "--name", "next", "--", "true")
        command = [sys.executable, "-m", "container_manager", "worker", "--slots", "1", "--log-level", "ERROR"]
        with subprocess.Popen(command, env=alone, cwd=tmp_path) as worker:
            started.read_text()
            worker.send_signal(signal.SIGTERM)
            go.write_text("\n")
            assert worker.wait(timeout=PATIENCE_SECONDS) == 0
        found = {row["name"]: row["status"] for row in json.loads(standalone(alone, "ps", "-a", "--json").stdout)}
        assert found == {"slow": "completed", "next": "queued"}

    def test_a_worker_touches_its_alive_file_as_long_as_it_works_and_leaves_none(
        self, alone: dict[str, str], tmp_path: Path
    ) -> None:
        started, go, alive = tmp_path / "started", tmp_path / "go", tmp_path / "alive"
        os.mkfifo(started)
        os.mkfifo(go)
        standalone(alone, "submit", "--", "sh", "-c", f"echo > {started}; read word < {go}")
        command = [sys.executable, "-m", "container_manager", "worker", "--once", "--alive-file", str(alive)]
        with subprocess.Popen([*command, "--log-level", "ERROR"], env=alone, cwd=tmp_path) as worker:
            started.read_text()
            assert alive.exists()
            go.write_text("\n")
            assert worker.wait(timeout=PATIENCE_SECONDS) == 0
        assert not alive.exists()

    def test_an_unknown_setting_of_the_toml_file_is_named(self, alone: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text("LEASE = 3\n")
        done = standalone({**alone, "CONTAINER_MANAGER_CONFIG": str(tmp_path / "config.toml")}, "worker", "--drain")
        assert done.returncode != 0
        assert "'LEASE'] is no setting" in done.stderr

    def test_the_demo_exits_with_0_and_shows_refused_transitions(self, alone: dict[str, str]) -> None:
        done = standalone(alone, "demo")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Every job ended as it should." in done.stdout
        assert "Invalid transition from completed to running" in done.stdout

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["--image", "busybox"], "--image is for --executor docker"),
            (["--executor", "docker"], "django-container-manager[docker]"),
        ],
    )
    def test_a_demo_that_cannot_run_exits_with_2_and_the_reason(
        self, alone: dict[str, str], tmp_path: Path, words: list[str], text: str
    ) -> None:
        (tmp_path / "docker.py").write_text("raise ImportError('as if it were not installed')\n")
        done = standalone(alone, "demo", *words)
        assert done.returncode == 2
        assert text in done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as startproject makes it, with the app in it and its tables created."""
    folder = tmp_path_factory.mktemp("project")
    call_command("startproject", "site_of_ours", folder)
    settings = folder / "site_of_ours" / "settings.py"
    settings.write_text(settings.read_text("utf-8") + '\nINSTALLED_APPS += ["container_manager"]\n', "utf-8")
    manage(folder, "migrate")
    return folder


def manage(folder: Path, *words: str, program: Sequence[str] = ("manage.py",)) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, *program, *words],
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# What each verb needs to succeed; JOB stands for a job's id.
WORDS = {
    "run": ["--", "true"],
    "submit": ["--", "true"],
    "worker": ["--drain"],
    "logs": ["JOB"],
    "history": ["JOB"],
    "show": ["JOB"],
    "explain": ["JOB"],
    "cancel": ["JOB"],
    "retry": ["JOB"],
    "prune": ["--days", "7"],
}


@pytest.mark.without_database
class TestInProject:
    @pytest.mark.parametrize(
        "verb",
        [
            verb if verb == "run" else pytest.param(verb, marks=pytest.mark.slow)
            for verb in VERBS
            # A worker's, for the job that its environment names.
            if verb != "run-task"
        ],
    )
    @pytest.mark.shows("reference/commands.md#commands")
    def test_options_of_django_are_accepted_after_the_verb(self, project: Path, verb: str) -> None:
        words = WORDS.get(verb, [])
        if "JOB" in words:
            job = manage(project, "container", "submit", "--", "true").stdout.strip()
            words = [job if word == "JOB" else word for word in words]
            if verb == "retry":
                manage(project, "container", "cancel", job)
        options = ["--traceback", "--no-color", "--verbosity", "1", "--skip-checks", "--pythonpath", "."]
        # Without manage.py there are no settings but those of the option.
        program = ["-m", "django"]
        manage(project, "container", verb, *options, "--settings", "site_of_ours.settings", *words, program=program)

    def test_an_option_given_before_the_verb_is_kept(self, project: Path) -> None:
        words = ["container", "--settings", "site_of_ours.settings", "--pythonpath", ".", "ps"]
        assert "ID" in manage(project, *words, program=["-m", "django"]).stdout

    @pytest.mark.shows("reference/commands.md#commands")
    def test_a_worker_logs_to_stderr_where_the_project_configures_no_logging(self, project: Path) -> None:
        said = manage(project, "container", "worker", "--drain", "--log-level", "INFO")
        assert said.stdout == ""
        assert "INFO" in said.stderr
        assert manage(project, "container", "worker", "--drain", "--log-level", "ERROR").stderr == ""

    @pytest.mark.shows("reference/commands.md#errors-and-signals")
    def test_a_worker_logs_a_json_object_per_line_with_the_option(self, project: Path) -> None:
        manage(project, "container", "submit", "--name", 'a"b', "--", "true")
        said = manage(project, "container", "worker", "--drain", "--log-format", "json")
        lines = [json.loads(line) for line in said.stderr.splitlines()]
        assert lines
        assert all(set(line) == {"time", "level", "logger", "message"} for line in lines)
        assert {line["level"] for line in lines} == {"INFO"}
        assert any(line["message"].startswith("Worker ") and "executors=" in line["message"] for line in lines)

    def test_an_error_in_a_json_line_is_one_line_that_keeps_its_traceback(self) -> None:
        logger, stream = package_logger("container_manager.of_this_test"), io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        try:
            raise ValueError("first\nsecond \u202e")
        except ValueError:
            logger.exception("It failed: %s", "a\nb")
        finally:
            logger.removeHandler(handler)
        [line] = stream.getvalue().splitlines()
        found = json.loads(line)
        assert (found["level"], found["message"]) == ("ERROR", "It failed: a\\nb")
        assert "test_cli.py" in found["exception"]
        assert "\u202e" not in found["exception"]

    @pytest.mark.shows("reference/commands.md#errors-and-signals")
    def test_a_logging_level_of_the_project_applies_unless_the_option_names_another(self, project: Path) -> None:
        settings = project / "site_of_ours" / "level_settings.py"
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"container_manager": {"level": "ERROR"}},
        }
        settings.write_text(f"from .settings import *\nLOGGING = {config!r}\n", "utf-8")
        words = ["container", "worker", "--drain", "--settings", "site_of_ours.level_settings"]
        assert manage(project, *words).stderr == ""
        assert "INFO" in manage(project, *words, "--log-level", "INFO").stderr

    @pytest.mark.parametrize(
        "logger",
        [
            "",
            pytest.param("container_manager", marks=pytest.mark.slow),
            pytest.param("container_manager.worker.loop", marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.shows("reference/commands.md#commands")
    def test_a_worker_logs_each_line_once_where_the_project_configures_logging(
        self, project: Path, logger: str
    ) -> None:
        settings = project / "site_of_ours" / "logging_settings.py"
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"ours": {"format": "ours: %(message)s"}},
            "handlers": {"ours": {"class": "logging.StreamHandler", "formatter": "ours"}},
            "loggers": {logger: {"handlers": ["ours"]}},
        }
        settings.write_text(f"from .settings import *\nLOGGING = {config!r}\n", "utf-8")
        words = ["container", "worker", "--drain", "--log-level", "INFO", "--settings", "site_of_ours.logging_settings"]
        lines = manage(project, *words).stderr.splitlines()
        assert lines
        assert all(line.startswith("ours: ") for line in lines)
        assert len(lines) == len(set(lines))
