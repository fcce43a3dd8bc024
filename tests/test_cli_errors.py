"""What a user reads where a command cannot do its work: a sentence, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from container_manager import queue
from container_manager.models import ContainerJob

from .jobs import THEN, job_in
from .polling import PATIENCE_SECONDS
from .typed_commands import typed

ROOT = Path(__file__).resolve().parent.parent


def environment(**variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
        "CM_WORKER_LEASE_SECONDS": "30",
        **variables,
    }


def container(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a verb on the tests' database, or another that a variable names."""
    return command("container", *words, **variables)


def command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "django", *words],
        env=environment(**variables),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def standalone(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m container_manager`` in a folder."""
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(
        [sys.executable, "-m", "container_manager", *words],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=folder,
    )


@contextmanager
def piped(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a verb whose standard output is a pipe."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "container", *words], env=environment(), stdout=pipe, stderr=pipe
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def close_output(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Close the reading end of a command's output; return its exit code and what it says."""
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    code = process.wait(timeout=PATIENCE_SECONDS)
    return code, process.stderr.read().decode()


@pytest.mark.django_db(transaction=True)
class TestOnDatabase:
    @pytest.mark.parametrize(
        "words",
        [
            ["ps"],
            pytest.param(["submit", "--", "true"], marks=pytest.mark.slow),
            pytest.param(["worker", "--drain"], marks=pytest.mark.slow),
            pytest.param(["doctor"], marks=pytest.mark.slow),
        ],
    )
    def test_a_database_without_tables_is_named_with_the_command_to_run(
        self, words: Sequence[str], tmp_path: Path
    ) -> None:
        empty = {"sqlite": str(tmp_path / "empty.sqlite3"), "postgresql": "postgres", "mysql": "mysql"}
        done = container(*words, CM_WORKER_DATABASE=empty[connection.vendor])
        assert done.returncode == 1
        assert "lacks migrations of container_manager; run 'manage.py migrate'" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "words",
        [
            ["submit", "--", "true"],
            pytest.param(["worker", "--drain"], marks=pytest.mark.slow),
            pytest.param(["queue", "--pause", "a"], marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.skipif(connection.vendor == "mysql", reason="A superuser can write to a read-only MariaDB.")
    def test_a_read_only_database_is_reported_in_one_sentence(self, words: Sequence[str]) -> None:
        read_only = {
            "sqlite": {"CM_WORKER_DATABASE": f"file:{connection.settings_dict['NAME']}?mode=ro"},
            "postgresql": {"PGOPTIONS": "-c default_transaction_read_only=on"},
        }
        done = container(*words, **read_only[connection.vendor])
        assert done.returncode == 1
        assert "The database 'default' refused this" in done.stderr
        assert "Traceback" not in done.stderr
        assert "did not answer" not in done.stderr

    def test_a_database_that_cannot_be_reached_is_not_said_to_have_refused(self, tmp_path: Path) -> None:
        done = container("ps", CM_WORKER_DATABASE="no/such", CM_TEST_SOCKET=str(tmp_path))
        assert done.returncode == 1
        assert "The database 'default' cannot be reached" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.without_database
    @pytest.mark.parametrize(
        "words",
        [
            pytest.param(["submit", "--delay", "nan", "--", "true"], marks=pytest.mark.slow),
            pytest.param(["submit", "--delay", "inf", "--", "true"], marks=pytest.mark.slow),
            ["submit", "--delay", "1e13", "--", "true"],
            pytest.param(["prune", "--days", "1e10"], marks=pytest.mark.slow),
            pytest.param(["prune", "--days", "nan"], marks=pytest.mark.slow),
            ["prune", "--days", "1e6"],
        ],
    )
    def test_a_time_beyond_the_calendar_is_refused_and_leaves_no_job(self, words: Sequence[str]) -> None:
        done = typed(*words)
        assert done.returncode == 1
        assert f"{words[1]} leads to no date" in done.stderr
        assert "Traceback" not in done.stderr
        assert not ContainerJob.objects.exists()

    @pytest.mark.without_database
    def test_text_that_is_no_unicode_is_refused(self) -> None:
        done = typed("submit", "--", "echo", os.fsdecode(b"\xff"))
        assert done.returncode == 1
        assert r"The character '\udcff' at position" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.without_database
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["ps", "--database", "nosuch"], "There is no database 'nosuch' in the settings"),
            (["worker", "--database", "nosuch"], "There is no database 'nosuch' in the settings"),
            (["submit", "--cpus", "nan", "--", "true"], "cpu_count: A finite number above zero is needed"),
            (["submit", "--cpus", "inf", "--", "true"], "cpu_count: Ensure this value is less than or equal to 8192"),
            (["queue", "--pause", "x" * 65], "name: Ensure this value has at most 64 characters"),
        ],
    )
    def test_an_unusable_value_of_a_command_is_named(self, words: Sequence[str], said: str) -> None:
        done = typed(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_limit_may_be_larger_than_any_number_of_the_database(self) -> None:
        job_in("pending", name="one")
        done = typed("ps", "--limit", "9" * 30)
        assert (done.returncode, done.stderr) == (0, "")
        assert "one" in done.stdout

    @pytest.mark.without_database
    @pytest.mark.shows("reference/commands.md#commands")
    @pytest.mark.parametrize(
        ("words", "redirection", "code", "said"),
        [
            pytest.param("container ps", ">&-", 0, "", marks=pytest.mark.slow),
            pytest.param("statemachine diagram container_manager.ContainerJob", ">&-", 0, "", marks=pytest.mark.slow),
            ("container run true", ">&- 2>&-", 0, ""),
            ("container submit true", ">/dev/full", 1, "No space left on device"),
            pytest.param("statemachine triggers", ">/dev/full", 1, "No space left on device", marks=pytest.mark.slow),
        ],
    )
    def test_a_closed_or_full_output_prints_no_traceback(
        self, words: str, redirection: str, code: int, said: str
    ) -> None:
        line = f"exec {sys.executable} -m django {words} {redirection}"
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.without_database
    @pytest.mark.parametrize(
        "words", [["triggers"], pytest.param(["diagram", "container_manager.ContainerJob"], marks=pytest.mark.slow)]
    )
    def test_the_state_machine_command_exits_as_by_sigpipe_when_its_reader_has_gone(self, words: Sequence[str]) -> None:
        # What it prints fits into a pipe: the reader has gone before it begins, else it may be through before that.
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "django", "statemachine", *words],
                env=environment(),
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (141, "")

    @pytest.mark.usual_statements
    def test_the_state_machines_command_names_a_database_that_does_not_answer(self, tmp_path: Path) -> None:
        done = command("statemachine", "triggers", CM_WORKER_DATABASE="no/such", CM_TEST_SOCKET=str(tmp_path))
        assert done.returncode == 1
        assert "The database 'default' did not answer" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.without_database
    @pytest.mark.parametrize(
        "words",
        [
            ["ps"],
            pytest.param(["run", "--help"], marks=pytest.mark.slow),
            pytest.param(["history", "Grüße"], marks=pytest.mark.slow),
        ],
    )
    def test_an_ascii_only_terminal_gets_other_characters_escaped(self, words: Sequence[str]) -> None:
        job_in("pending", name="Grüße").mark_as_queued(reason="schön")
        done = container(*words, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert {"ps": "Gr\\xfc\\xdfe", "run": "COMMAND \\u2026", "history": "sch\\xf6n"}[words[0]] in done.stdout

    @pytest.mark.without_database
    def test_run_cancels_its_job_when_the_reader_of_its_output_has_gone(self) -> None:
        """As ``run … | head -1`` does, whether or not the job goes on writing."""
        for script in ("while :; do echo again; sleep 0.01; done", "echo again; exec sleep 600"):
            with piped("run", "--grace", "0", "--", "sh", "-c", script) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"again\n"
                code, said = close_output(process)
            job = ContainerJob.objects.latest("pk")
            assert (job.status, job.status_changed_reason) == ("cancelled", "its output is read no more")
            assert job.attempts.get().finished_at is not None
            assert "Traceback" not in said
            assert code == 141

    @pytest.mark.without_database
    def test_a_command_whose_reader_has_gone_exits_as_by_sigpipe(self) -> None:
        queue.enqueue_many(ContainerJob(command="true " + "x" * 100, name="y" * 200) for _ in range(1000))
        with piped("ps", "--limit", "1000") as process:
            assert close_output(process) == (141, "")

    @pytest.mark.without_database
    def test_a_worker_whose_output_was_closed_before_it_began_ends_with_0(self) -> None:
        words = f"exec {sys.executable} -m django container worker --drain >&-"
        done = subprocess.run(
            ["/bin/sh", "-c", words], env=environment(), capture_output=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr

    @pytest.mark.without_database
    def test_following_one_attempt_shows_no_other_attempt(self) -> None:
        job = job_in("failed", attempt=2, name="twice")
        for number in (1, 2):
            attempt = job.attempts.create(
                number=number, worker="w", executor="default", launched_at=THEN, finished_at=timezone.now()
            )
            attempt.logs.create(sequence=0, stream="stdout", data=b"attempt %d\n" % number)
        for number in (1, 2):
            done = typed("logs", "-f", "--attempt", str(number), "twice")
            assert (done.returncode, done.stdout) == (0, f"attempt {number}\n")

    @pytest.mark.without_database
    def test_a_worker_has_as_many_slots_as_cores_it_may_use(self) -> None:
        core = min(os.sched_getaffinity(0))
        words = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "django", "container", "worker", "--drain"]
        done = subprocess.run(
            words, env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "slots=1" in done.stderr


@pytest.mark.without_database
class TestStandalone:
    @pytest.mark.parametrize(
        ("variables", "words"),
        [
            ({"CONTAINER_MANAGER_DATABASE": "/no/such/folder/jobs.sqlite3"}, "unable to open database file"),
            ({"CONTAINER_MANAGER_CONFIG": "/no/such/file.toml"}, "/no/such/file.toml, which cannot be read"),
            ({"CONTAINER_MANAGER_CONFIG": __file__}, "which cannot be read"),
        ],
    )
    def test_an_unusable_database_or_settings_file_is_named(
        self, variables: dict[str, str], words: str, tmp_path: Path
    ) -> None:
        done = standalone("ps", folder=tmp_path, **variables)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr

    def test_the_help_option_creates_no_database(self, tmp_path: Path) -> None:
        for words in (["--help"], ["ps", "--help"]):
            done = standalone(*words, folder=tmp_path)
            assert (done.returncode, done.stdout[:6]) == (0, "usage:"), done.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usual_statements
@pytest.mark.django_db(transaction=True)
def test_the_process_of_a_task_needs_nothing_that_its_settings_name_on_its_workers_host() -> None:
    """In a container there is no way to the engine, and there should be none."""
    options = {"kubeconfig": "/nowhere/kubeconfig", "images": ["shop:1"]}
    backend = "container_manager.executors.kubernetes.KubernetesExecutor"
    settings = {"INSTALL": "shop", "EXECUTORS": {"default": {"BACKEND": backend, "OPTIONS": options}}}
    key = "01a22a60-9cff-7067-8c3a-043d4b66ce01"
    variables = {"CONTAINER_MANAGER_JOB": key, "CONTAINER_MANAGER_ATTEMPT": "1"}
    done = container("run-task", CM_WORKER_SETTINGS=json.dumps(settings), **variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"CommandError: There is no task {key} in this database.")
