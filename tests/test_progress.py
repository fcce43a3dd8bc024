"""The progress of a job: what it writes into a file is read while it runs, and shown as no more than a line of text."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from container_manager import queue, store
from container_manager.dashboard.access import Act
from container_manager.executors.process import ProcessExecutor
from container_manager.executors.process.result_files import ResultFile
from container_manager.jobs.progress_lines import PROGRESS_BYTES, Progress, latest_progress, progress_of, whole_lines
from container_manager.models import ContainerJob, JobAttempt, JobStatus, Worker
from container_manager.queue import explain
from container_manager.tasks import report_progress
from container_manager.testing import FakeRun, fake_jobs, run_job

from .dashboard_users import user_who_may
from .jobs import journal_of, row_of
from .protocol.records import expire_lease, records_of, register, rescue
from .test_protocol import working
from .workers import eventually

RESIZING = Progress(done=3, total=10, text="resizing")
HOSTILE = "<script>alert(1)</script>\x1b[2K\u202e"


@pytest.mark.without_database
@pytest.mark.shows("howto/progress.md#what-is-accepted")
class TestProgressLines:
    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"3/10 resizing\n", RESIZING),
            (b"3/10 resizing\r\n", RESIZING),
            (b"1/10 reading\n 3/10   resizing \n", RESIZING),
            (b"3/10\n", Progress(done=3, total=10)),
            (b"11/10 more than was known\n", Progress(done=11, total=10, text="more than was known")),
            ("0/1 grün 🌱\n".encode(), Progress(done=0, total=1, text="grün 🌱")),
            # The last line is not complete yet.
            (b"3/10 resizing\n4/10 resi", RESIZING),
            (b"3/10 resizing", None),
            (b"", None),
        ],
    )
    def test_the_last_complete_line_is_the_progress(self, data: bytes, found: Progress | None) -> None:
        assert latest_progress(data) == found

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "resizing",
            "4",
            "4/",
            "/4",
            "-1/4",
            "4/0",
            "1.5/4",
            "4 / 10",
            "4/10resizing",
            "\u0663/\u0661",
            f"1/{10**15}",
        ],
    )
    def test_lines_of_another_form_are_no_progress(self, line: str) -> None:
        assert latest_progress(f"{line}\n".encode()) is None
        assert latest_progress(f"3/10 resizing\n{line}\n{line}\n".encode()) == RESIZING

    def test_a_progress_text_is_one_printable_line_of_at_most_200_characters(self) -> None:
        found = latest_progress(b"1/2 \x1b[2Ka\rb\xe2\x80\xae\xff\0\n")
        assert found == Progress(done=1, total=2, text="\\x1b[2Ka\\rb\\u202e\ufffd\\x00")
        long = latest_progress(b"1/2 " + b"x" * 3000 + b"\n")
        assert long is not None
        assert len(long.text) == 200

    def test_secrets_are_masked_before_a_progress_line_is_truncated_or_parsed(self) -> None:
        def masked(text: str) -> str:
            return text.replace("hunter2", "***").replace("123456", "***")

        assert latest_progress(b"1/2 " + b"x" * 197 + b"hunter2\n", masked=masked) == Progress(
            done=1, total=2, text="x" * 197 + "***"
        )
        assert latest_progress(b"3/10 resizing\n1/123456\n", masked=masked) == RESIZING

    def test_a_line_that_was_read_only_in_part_is_no_progress(self) -> None:
        assert latest_progress(whole_lines(b"23/99 x\n", is_cut=True)) is None
        assert whole_lines(b"no end", is_cut=True) == b""
        assert whole_lines(b"1/2\n", is_cut=False) == b"1/2\n"

    @pytest.mark.parametrize(
        "value",
        [None, "3/10", [3, 10, "x"], {}, {"done": True, "total": 2, "text": ""}, {"done": -1, "total": 2, "text": ""},
         {"done": 1, "total": 0, "text": ""}, {"done": 1, "total": 2, "text": 3}, {"done": "1", "total": 2, "text": ""}],
    )  # fmt: skip
    def test_any_other_value_of_the_column_is_no_progress(self, value: object) -> None:
        assert progress_of(value) is None

    def test_a_progress_text_that_was_written_by_sql_is_shown_escaped(self) -> None:
        assert progress_of({"done": 1, "total": 2, "text": "\x1b"}) == Progress(done=1, total=2, text="\\x1b")


@pytest.mark.without_database
@pytest.mark.shows("howto/progress.md#what-is-accepted")
class TestProgressFile:
    @pytest.fixture
    def place(self, tmp_path: Path) -> ResultFile:
        return ResultFile(str(tmp_path / "result"), 100)

    def test_a_progress_file_is_read_each_time_and_is_gone_after_the_exit(self, place: ResultFile) -> None:
        file = Path(place.progress_path)
        assert (place.progress(), place.take_progress()) == (None, None)
        file.write_bytes(b"1/2\n")
        assert (place.progress(), place.progress()) == (b"1/2\n", b"1/2\n")
        assert place.take_progress() == b"1/2\n"
        assert not file.exists()

    def test_the_last_whole_lines_of_a_long_progress_file_are_read(self, place: ResultFile) -> None:
        Path(place.progress_path).write_text("".join(f"{n}/99999\n" for n in range(99999)))
        data = place.progress()
        assert data is not None
        assert len(data) <= PROGRESS_BYTES
        assert latest_progress(data) == Progress(done=99998, total=99999)
        assert data.splitlines()[0].startswith(b"99")

    def test_a_progress_file_of_any_size_costs_the_same(self, place: ResultFile) -> None:
        with Path(place.progress_path).open("wb") as file:
            file.truncate(1 << 40)
        assert place.progress() == b""

    @pytest.mark.parametrize(
        "make",
        [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, Path.mkdir],
        ids=["link", "fifo", "folder"],
    )
    def test_only_a_regular_file_is_read_as_progress_and_reading_never_blocks(
        self, place: ResultFile, make: Callable[[Path], object]
    ) -> None:
        make(Path(place.progress_path))
        assert (place.progress(), place.take_progress()) == (None, None)


@pytest.mark.django_db
class TestStoredProgress:
    @pytest.mark.shows("howto/progress.md#get-progress-from-a-job")
    @pytest.mark.parametrize("operator", [">", ">>"])
    def test_a_shell_can_overwrite_the_progress_file_or_append_to_it(self, operator: str) -> None:
        script = f"""sh -c 'for n in 1 2 3; do echo "$n/10 resizing" {operator} "$CONTAINER_MANAGER_PROGRESS"; done'"""
        job = run_job(queue.enqueue(command=script))
        assert (job.status, job.progress) == (JobStatus.COMPLETED, RESIZING)
        assert job.attempts.get().progress == {"done": 3, "total": 10, "text": "resizing"}

    @pytest.mark.shows("howto/progress.md#read-it")
    def test_each_attempt_has_and_keeps_its_own_progress(self) -> None:
        with fake_jobs(lambda _: FakeRun(exit=1, progress="7/10 first\n")):
            job = run_job(queue.enqueue(command="x", max_retries=1))
            assert job.progress == Progress(done=7, total=10, text="first")
        with fake_jobs(lambda _: FakeRun()):
            job = run_job(job)
        assert (job.status, job.progress) == (JobStatus.COMPLETED, None)
        assert [each.progress for each in job.attempts.order_by("number")] == [
            {"done": 7, "total": 10, "text": "first"},
            None,
        ]

    def test_the_values_of_secrets_are_masked_in_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CM_SECRET_TOKEN", "hunter2")
        with (
            override_settings(CONTAINER_MANAGER={"SECRETS": {"env:CM_SECRET_TOKEN": ""}}),
            fake_jobs(lambda _: FakeRun(progress="1/2 with hunter2\n")),
        ):
            job = run_job(queue.enqueue(command="x", secrets={"TOKEN": "env:CM_SECRET_TOKEN"}, actor="test"))
        assert job.progress == Progress(done=1, total=2, text="with ***")

    @pytest.mark.shows("howto/progress.md#what-it-costs")
    def test_a_job_without_progress_costs_no_statement(self) -> None:
        def stored(said: str) -> list[str]:
            with fake_jobs(lambda _: FakeRun(progress=said)), CaptureQueriesContext(connection) as queries:
                run_job(queue.enqueue(command="x"))
            return [each["sql"] for each in queries if re.search(r'["`]progress["`] = ', each["sql"])]

        assert len(stored("1/2 half\n")) == 1
        assert stored("") == []

    def test_progress_of_many_attempts_is_stored_in_two_statements(self) -> None:
        jobs = claimed(7)
        changes = [store.ProgressChange(job.pk, 1, replace(RESIZING, done=n)) for n, job in enumerate(jobs)]
        with CaptureQueriesContext(connection) as queries:
            assert store.store_progress(changes, worker="w", using="default") == set()
        assert len([each for each in queries if "SAVEPOINT" not in each["sql"]]) == 2
        assert [job.progress.done for job in jobs if job.progress] == list(range(7))

    def test_storing_progress_does_not_change_the_row_of_the_job(self) -> None:
        [job] = claimed(1)
        before = row_of(job), records_of(job)["journal"]
        store.store_progress([store.ProgressChange(job.pk, 1, RESIZING)], worker="w", using="default")
        assert job.progress == RESIZING
        assert (row_of(job), records_of(job)["journal"]) == before


def claimed(count: int) -> list[ContainerJob]:
    """Return running jobs of the worker ``w``."""
    if not Worker.objects.exists():
        register("w")
    jobs = queue.enqueue_many([ContainerJob(command="x") for _ in range(count)])
    assert len(store.claim(worker="w", executors=["default"], limit=count, using="default")) == count
    for job in jobs:
        job.refresh_from_db()
    return list(jobs)


def rescued(job: ContainerJob) -> None:
    expire_lease("w")
    register("heir")
    assert rescue("heir") == 1


def finished(job: ContainerJob) -> None:
    end = store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)
    assert store.finish([end], worker="w", using="default")


def claimed_again(job: ContainerJob) -> None:
    end = store.Outcome(job_id=job.pk, attempt=1, status="failed", retry_after_seconds=0.0)
    assert store.finish([end], worker="w", using="default")
    ContainerJob.objects.get(pk=job.pk).mark_as_queued()
    register("heir")
    assert store.claim(worker="heir", executors=["default"], limit=1, using="default")


@pytest.mark.django_db
@pytest.mark.parametrize("lose", [rescued, finished, claimed_again])
@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.shows("howto/progress.md#read-it")
def test_a_worker_that_has_lost_the_attempt_writes_no_progress(
    lose: Callable[[ContainerJob], None], attempt: int
) -> None:
    [job] = claimed(1)
    lose(job)
    before = records_of(job)
    change = store.ProgressChange(job.pk, attempt, RESIZING)
    assert store.store_progress([change], worker="w", using="default") == set()
    assert records_of(job) == before


@pytest.mark.django_db(transaction=True)
def test_the_progress_of_a_running_job_is_seen_before_its_end(tmp_path: Path) -> None:
    (gate := tmp_path / "gate").touch()
    script = f"""
        echo "1/2 waiting" > "$CONTAINER_MANAGER_PROGRESS"
        while test -e {gate}; do sleep 0.1; done
        echo "2/2 done" > "$CONTAINER_MANAGER_PROGRESS"
    """
    with working(ProcessExecutor()):
        job = queue.enqueue(command=shlex.join(["sh", "-c", script]))
        eventually(lambda: ContainerJob.objects.get(pk=job.pk).progress == Progress(done=1, total=2, text="waiting"))
        gate.unlink()
        job.wait(120)
    # It has moved the job nowhere.
    assert journal_of(job)[-2:] == [("queued", "running"), ("running", "completed")]
    assert job.progress == Progress(done=2, total=2, text="done")


@pytest.mark.without_database
class TestReportingFromATask:
    @pytest.mark.shows("howto/progress.md#in-a-task")
    def test_reporting_progress_writes_a_line_and_does_nothing_outside_of_a_job(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CONTAINER_MANAGER_PROGRESS", raising=False)
        report_progress(1, 2)
        monkeypatch.setenv("CONTAINER_MANAGER_PROGRESS", str(file := tmp_path / "progress"))
        report_progress(3, 10, "resizing")
        assert latest_progress(file.read_bytes()) == RESIZING
        report_progress(4, 10, "two\nlines")
        assert latest_progress(file.read_bytes()) == Progress(done=4, total=10, text="two\\nlines")

    @pytest.mark.parametrize(("done", "total"), [(-1, 10), (1, 0)])
    def test_numbers_that_are_no_progress_raise_an_error(self, done: int, total: int) -> None:
        with pytest.raises(ValueError, match=f"not {done} of {total}"):
            report_progress(done, total)


@pytest.mark.django_db
@pytest.mark.shows("howto/progress.md#read-it")
class TestShownProgress:
    @pytest.fixture
    def job(self) -> ContainerJob:
        """Return a running job whose progress somebody has written by SQL: as hostile as it can be."""
        [job] = claimed(1)
        said = {"done": 3, "total": 10, "text": HOSTILE}
        assert JobAttempt.objects.filter(job=job).update(progress=said) == 1
        return job

    def page(self, job: ContainerJob, *acts: Act) -> str:
        client = Client()
        client.force_login(user_who_may(*acts))
        return client.get(reverse("container_manager_dashboard:job", args=[job.pk])).content.decode()

    def test_the_page_of_the_job_shows_progress_as_a_bar_and_escaped_text(self, job: ContainerJob) -> None:
        page = self.page(job, Act.VIEW, Act.SEE_OUTPUT)
        assert '<progress id="cd-progress" value="3" max="10">' in page
        assert "3 / 10 &lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2K\\u202e" in page
        assert "<script>alert(1)" not in page
        assert not {"\x1b", "\u202e"} & set(page)

    def test_the_list_of_jobs_reads_progress_in_one_more_statement_if_some_run(self, job: ContainerJob) -> None:
        claimed(3)
        client = Client()
        client.force_login(user_who_may(Act.VIEW, Act.SEE_OUTPUT))
        client.get(url := reverse("container_manager_dashboard:jobs"))
        with CaptureQueriesContext(connection) as queries:
            page = client.get(url).content.decode()
        assert "3/10 &lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2K\\u202e" in page
        assert len([each for each in queries if "jobattempt" in each["sql"]]) == 1

    def test_a_user_who_may_not_see_output_sees_no_progress(self, job: ContainerJob) -> None:
        client = Client()
        client.force_login(user_who_may(Act.VIEW))
        for name, arguments in (("job", [job.pk]), ("jobs", [])):
            page = client.get(reverse(f"container_manager_dashboard:{name}", args=arguments)).content.decode()
            assert "<progress" not in page
            assert "alert(1)" not in page

    @pytest.mark.parametrize(
        ("acts", "shown"),
        [
            ((Act.VIEW,), None),
            ((Act.VIEW, Act.SEE_OUTPUT), {"done": 3, "total": 10, "text": "<script>alert(1)</script>\\x1b[2K\\u202e"}),
        ],
    )
    def test_the_api_shows_progress_to_users_who_may_see_output(
        self, job: ContainerJob, acts: tuple[Act, ...], shown: object
    ) -> None:
        client = Client()
        client.force_login(user_who_may(*acts))
        answer = client.get(f"/jobs/api/v1/jobs/{job.pk}/attempts")
        assert answer.json()["attempts"][0]["progress"] == shown

    def test_explain_shows_progress(self, job: ContainerJob) -> None:
        assert explain(job).summary.startswith("It runs on h, 3 of 10: <script>")
        assert "\x1b" not in explain(job).summary
        assert explain(job, quotes_errors=False).summary == "It runs on h."
        JobAttempt.objects.update(progress={"done": 3, "total": 10, "text": ""})
        assert explain(job).summary == "It runs on h, 3 of 10."

    def test_the_commands_show_progress_escaped(self, job: ContainerJob) -> None:
        line = "3/10 <script>alert(1)</script>\\x1b[2K\\u202e"
        assert f"Progress: {line}\n" in printed("show", str(job.pk))
        assert f"({line})" in printed("top")
        assert line in printed("ps")

    def test_the_json_of_commands_has_progress_as_an_object(self, job: ContainerJob) -> None:
        expected = {"done": 3, "total": 10, "text": "<script>alert(1)</script>\\x1b[2K\\u202e"}
        assert json.loads(printed("show", str(job.pk), "--json"))["attempts"][0]["progress"] == expected
        assert json.loads(printed("top", "--json"))["workers"][0]["runs"][0]["progress"] == expected
        assert json.loads(printed("ps", "--json"))[0]["progress"] == expected
        JobAttempt.objects.update(progress="garbage")
        assert json.loads(printed("top", "--json"))["workers"][0]["runs"][0]["progress"] is None
        assert json.loads(printed("show", str(job.pk), "--json"))["attempts"][0]["progress"] is None


def printed(*arguments: Any) -> str:
    call_command("container", *arguments, stdout=(out := io.StringIO()))
    return out.getvalue()
