"""What verbs print, run as users run them: JSON by its schema, plain lines in a pipe, tables on a terminal, progress."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils.timezone import get_default_timezone
from jsonschema import Draft202012Validator

from container_manager.cli.time_options import time_option
from container_manager.cli.top_command import top_result
from container_manager.cli.verbs import VERBS
from container_manager.models import Worker
from container_manager.store import database_now, minute_of

from .jobs import job_in
from .json_schemas import FOLDER, schemas
from .polling import PATIENCE_SECONDS
from .span_counts import add_counts

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-m", "container_manager"]
# Markup of rich, and a link of a terminal's.
EVIL_NAME = "[bold red]x[/] :smile:"

pytestmark = pytest.mark.without_database


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment without a Django project, with a database file of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "NO_COLOR")}
    own = {"CONTAINER_MANAGER_DATABASE": str(tmp_path / "jobs.sqlite3"), "PYTHONPATH": str(ROOT)}
    return {**kept, **own, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}


def run(environment: Mapping[str, str], *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [*PROGRAM, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def read_all(descriptor: int) -> Iterator[bytes]:
    """Yield what a terminal shows until the last process that has it open is gone."""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            return
        if not data:
            return
        yield data


def on_terminal(environment: Mapping[str, str], *words: str, stream: str = "stdout") -> tuple[str, str]:
    """Run a verb with one of its streams a terminal; return what that shows, and what the other pipe has."""
    ours, theirs = pty.openpty()
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
    with subprocess.Popen([*PROGRAM, *words], env=environment, **streams) as process:
        os.close(theirs)
        shown = b"".join(read_all(ours)).decode()
        other = process.stderr if stream == "stdout" else process.stdout
        assert other is not None
        rest = other.read().decode()
    os.close(ours)
    assert process.returncode == 0, shown + rest
    return shown, rest


class TestJson:
    def test_the_schemas_in_the_package_are_those_of_the_declarations(self) -> None:
        kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
        assert kept == schemas(), "Run 'python -m tests.json_schemas' with DJANGO_SETTINGS_MODULE=tests.settings."

    @pytest.mark.shows("reference/commands.md#json")
    def test_each_command_with_the_option_json_has_a_schema_in_the_reference(self) -> None:
        from argparse import ArgumentParser

        page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
        for name, verb in VERBS.items():
            parser = ArgumentParser()
            verb.add_arguments(parser)
            has_option = "--json" in parser._option_string_actions
            assert has_option == (name in schemas()) == (f"cli/schemas/{name}.json" in page), name

    @pytest.mark.slow
    @pytest.mark.shows("reference/commands.md#json")
    def test_the_json_of_each_command_fits_its_schema(self, environment: Mapping[str, str]) -> None:
        def checked(verb: str, *words: str, code: int = 0) -> Any:
            value = json.loads(run(environment, verb, *words, "--json", code=code))
            tested.add(verb)
            Draft202012Validator(closed(schemas()[verb])).validate(value)
            return value

        tested: set[str] = set()
        job = json.loads(run(environment, "submit", "--json", "--name", EVIL_NAME, "--", "true"))
        Draft202012Validator(closed(schemas()["submit"])).validate(job)
        assert checked("ps")[0]["name"] == EVIL_NAME
        assert checked("queue")[0]["queued"] == 1
        assert checked("stats")["jobs"]["queued"] == 1
        assert checked("top")["queues"][0]["due"] == 1
        assert {row["queue"] for row in checked("stats", "--step", "30")["activity"]} == {None}
        assert checked("cancel", job["id"]) == [{"id": job["id"], "refused": ""}]
        assert "cancelled" in checked("cancel", job["id"], code=1)[0]["refused"]
        again = checked("retry", job["id"])[0]["runs_as"]
        assert again != job["id"]
        assert checked("retry", again, code=1)[0]["runs_as"] is None
        history = checked("history", job["id"])
        assert [entry["to_status"] for entry in history] == ["queued", "cancelled"]
        assert all(datetime.fromisoformat(entry["at"]).tzinfo for entry in history)
        shown, why = checked("show", job["id"]), checked("explain", job["id"])
        assert shown["explanation"] == why
        assert [entry["to_status"] for entry in shown["transitions"]] == ["queued", "cancelled"]
        assert [found["ok"] for found in checked("executors")] == [True]
        assert checked("doctor")["jobs"] == {"cancelled": 1, "queued": 1}
        assert checked("doctor", "--since", "1h")["jobs"] == {"cancelled": 1, "queued": 1}
        assert checked("prune", "--days", "0") == {"deleted": 1}
        assert {*tested, "submit"} == set(schemas())


def closed(schema: Any) -> Any:
    """Return a schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    return {**found, "additionalProperties": False} if "properties" in found else found


@pytest.mark.shows("reference/commands.md#what-is-printed")
class TestTables:
    @pytest.mark.slow
    def test_a_table_is_coloured_on_a_terminal_only_and_a_name_is_no_markup(
        self, environment: Mapping[str, str]
    ) -> None:
        run(environment, "submit", "--name", EVIL_NAME, "--", "true")
        run(environment, "cancel", EVIL_NAME)
        plain = run(environment, "ps", "--all")
        assert "\x1b" not in plain
        shown, _ = on_terminal(environment, "ps", "--all")
        assert "\x1b[2mcancelled\x1b[0m" in shown
        assert EVIL_NAME in shown
        without, _ = on_terminal({**environment, "NO_COLOR": "1"}, "ps", "--all")
        assert EVIL_NAME in without
        assert colours(without) == []
        assert colours(on_terminal(environment, "ps", "--all", "--no-color")[0]) == []

    @pytest.mark.slow
    def test_on_a_narrow_terminal_the_last_column_is_folded_and_ids_stay_whole(
        self, environment: Mapping[str, str]
    ) -> None:
        job = run(environment, "submit", "--", "echo", "one two three four five six seven").strip()
        shown, _ = on_terminal({**environment, "COLUMNS": "72"}, "ps")
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
        assert max(map(len, lines)) <= 72
        assert job[:18] in lines[1]
        assert len(lines) > 2

    @pytest.mark.slow
    def test_without_rich_a_terminal_shows_the_plain_table(
        self, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / "absent" / "rich").mkdir(parents=True)
        (tmp_path / "absent" / "rich" / "__init__.py").write_text("raise ImportError", encoding="utf-8")
        run(environment, "submit", "--name", EVIL_NAME, "--", "true")
        lacking = {**environment, "PYTHONPATH": f"{tmp_path / 'absent'}:{ROOT}"}
        shown, _ = on_terminal(lacking, "queue")
        assert shown.replace("\r\n", "\n").split() == run(environment, "queue").split()
        assert on_terminal(lacking, "doctor", stream="stderr")[0] == "1 of 1 jobs examined\r\n"


def colours(shown: str) -> list[str]:
    """Return the escape sequences that set a colour."""
    return re.findall(r"\x1b\[(?:\d+;)*(?:3\d|9\d)(?:;\d+)*m", shown)


@pytest.mark.shows("reference/commands.md#progress")
class TestProgress:
    @pytest.mark.parametrize(
        "words", [["doctor"], pytest.param(["prune", "--days", "0"], marks=pytest.mark.slow)], ids=["doctor", "prune"]
    )
    def test_progress_is_printed_to_stderr_on_a_terminal(
        self, words: list[str], environment: Mapping[str, str]
    ) -> None:
        shown, printed = on_terminal(environment, *words, stream="stderr")
        assert "jobs" in shown
        assert "\x1b" not in printed

    @pytest.mark.slow
    @pytest.mark.parametrize("words", [["doctor"], ["prune", "--days", "0"]], ids=["doctor", "prune"])
    def test_progress_is_printed_to_stderr_on_a_terminal_or_with_the_option(
        self, words: list[str], environment: Mapping[str, str]
    ) -> None:
        run(environment, "submit", "--name", "job", "--", "true")
        assert run(environment, *words)
        shown, printed = on_terminal(environment, *words, stream="stderr")
        assert "jobs" in shown
        assert "\x1b" not in printed
        assert on_terminal(environment, *words, "--no-progress", stream="stderr")[0] == ""
        asked = subprocess.run(
            [*PROGRAM, *words, "--progress"], env=environment, capture_output=True, text=True, check=True
        )
        assert asked.stderr in ("1 of 1 jobs examined\n", "0 jobs deleted\n")


@pytest.mark.django_db
@pytest.mark.shows("reference/commands.md#times")
class TestTimes:
    @pytest.mark.parametrize("when", ["yesterday", "2h ago", "-1h", "2026-13-01", "99999999999999w", ""])
    def test_an_unreadable_time_is_refused_with_the_accepted_forms(self, when: str) -> None:
        with pytest.raises(CommandError, match=r"--since (takes how long ago|leads to no date)"):
            call_command("container", "doctor", f"--since={when}")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2026-01-31T22:00+02:00", datetime(2026, 1, 31, 20, tzinfo=UTC)),
            ("2026-01-31", datetime(2026, 1, 31, tzinfo=get_default_timezone())),
        ],
    )
    def test_a_time_without_an_offset_is_in_the_default_time_zone(self, text: str, expected: datetime) -> None:
        assert time_option("--since", text, using="default") == expected

    @pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("2d", 172800)])
    def test_a_duration_as_a_time_means_so_long_ago(self, text: str, seconds: float) -> None:
        before = database_now(using="default")
        assert timedelta(0) <= time_option("--since", text, using="default") + timedelta(seconds=seconds) - before


@pytest.mark.shows("reference/commands.md#completion")
def test_the_shell_completes_verbs_and_their_options_without_a_database(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    def completed(line: str) -> set[str]:
        asked = {"_ARGCOMPLETE": "3", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "_ARGCOMPLETE_IFS": "\n"}
        place = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE_SHELL": "bash"}
        subprocess.run(PROGRAM, env={**environment, **asked, **place}, check=True, timeout=PATIENCE_SECONDS)
        return {word.strip() for word in (tmp_path / "words").read_text(encoding="utf-8").splitlines()}

    assert completed("python -m container_manager do") == {"doctor"}
    assert completed("python -m container_manager ps --st") == {"--status"}
    assert "completed" in completed("python -m container_manager ps --status ")
    assert not (tmp_path / "jobs.sqlite3").exists()


@pytest.mark.shows("reference/commands.md#watch")
class TestTop:
    def test_top_refreshes_on_a_terminal_until_it_is_interrupted(self, environment: Mapping[str, str]) -> None:
        run(environment, "submit", "--queue", EVIL_NAME, "--", "true")
        ours, theirs = pty.openpty()
        words, shown, step = ["top", "--interval", "0.5"], b"", "looking"
        # In the background of a shell without job control it is ignored, and what is started there ignores it too.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        with subprocess.Popen(
            [*PROGRAM, *words], env=environment, stdout=theirs, stderr=subprocess.PIPE, text=True
        ) as process:
            os.close(theirs)
            for data in read_all(ours):
                shown += data
                if step == "looking" and b"1 queued" in shown:
                    step = "submitted"
                    run(environment, "submit", "--", "true")
                elif step == "submitted" and b"2 queued" in shown:
                    step = "interrupted"
                    process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = process.stderr.read()
        signal.signal(signal.SIGINT, handler)
        os.close(ours)
        assert (process.returncode, said) == (0, "")
        assert EVIL_NAME.encode() in shown
        # It leaves what was on the terminal before.
        assert b"\x1b[?1049h" in shown
        assert b"\x1b[?1049l" in shown

    @pytest.mark.slow
    def test_top_prints_once_in_a_pipe_or_with_the_option_once(self, environment: Mapping[str, str]) -> None:
        run(environment, "submit", "--", "true")
        printed = run(environment, "top").splitlines()
        assert printed[0].startswith("0 pending, 1 queued, 0 running")
        assert printed[2].split()[:4] == ["QUEUE", "DUE", "OLDEST", "LATER"]
        assert printed[3].split()[:2] == ["default", "1"]
        assert printed[3].endswith("no worker serves default")
        once, _ = on_terminal(environment, "top", "--once")
        assert "1 queued" in once
        assert "\x1b[?1049h" not in once


@pytest.mark.django_db
def test_top_shows_workers_with_their_attempts_and_attempts_without_a_live_worker() -> None:
    now = database_now(using="default")
    for name, seconds in (("alive", 60), ("gone", -60)):
        lease = now + timedelta(seconds=seconds)
        Worker.objects.create(
            id=name, host="h", pid=7, slots=2, executors=["default", "gpu"], lease_expires_at=lease,
            engines_away={"gpu": now.isoformat()},
        )  # fmt: skip
        job = job_in("running", name=f"job of {name}", worker=name, attempt=1)
        job.attempts.create(number=1, worker=name, executor="default", launched_at=now - timedelta(hours=3))
    add_counts(minute_of(now), "reports", completed=10, failed=5)
    found = top_result(using="default")
    rows = {worker["id"]: worker for worker in found["workers"]}
    assert [run["name"] for run in rows["alive"]["runs"]] == ["job of alive"]
    assert (rows["alive"]["engines_away"], rows["gone"]["lease_seconds"] < 0) == (["gpu"], True)
    assert [run["name"] for run in found["orphans"]] == ["job of gone"]
    queues = {each["queue"]: each for each in found["queues"]}
    assert (queues["default"]["running"], queues["reports"]["completed_per_minute"]) == (2, 2.0)
    out = StringIO()
    call_command("container", "top", stdout=out)
    printed = out.getvalue()
    assert re.search(r"alive +h:7 +\d+ s +1/2 +default, gpu \(away\) +job of alive 3 h", printed)
    assert re.search(r"gone +h:7 +expired +1/2", printed)
    for interval in ("0", "nan", "1e9"):
        with pytest.raises(CommandError, match="--interval is between"):
            call_command("container", "top", "--interval", interval)


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(schemas()))
def test_a_table_whose_reader_has_gone_exits_as_by_sigpipe(verb: str, environment: Mapping[str, str]) -> None:
    words = {
        "submit": ["--", "true"],
        "cancel": ["job"],
        "retry": ["job"],
        "history": ["job"],
        "show": ["job"],
        "explain": ["job"],
        "prune": ["--days", "9"],
        "ps": ["--all"],
    }
    run(environment, "submit", "--name", "job", "--", "true")
    if verb == "retry":
        run(environment, "cancel", "job")
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [*PROGRAM, verb, *words.get(verb, [])], env=environment, stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
