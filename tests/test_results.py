"""The result of a job: what it has written into a file is stored as JSON with its end, or refused in words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from container_manager import queue
from container_manager.executors.base import ExitStatus
from container_manager.executors.process.result_files import ResultFile, ResultFiles
from container_manager.jobs.json_value import MOST_LEVELS
from container_manager.models import ContainerJob, JobNotCompleted, JobStatus
from container_manager.testing import FakeRun, fake_jobs, run_job

from .polling import PATIENCE_SECONDS
from .workers import worker

WRITES = """sh -c 'printf "%s" "$0" > "$CONTAINER_MANAGER_RESULT"; exit "$1"' '{}' {}"""


def ended(result: bytes | None, *, refused: str = "", code: int = 0, **fields: Any) -> ContainerJob:
    """Return a job that an executor says to have ended so."""
    run = FakeRun(exit=ExitStatus(code=code, result=result, result_refused=refused))
    with fake_jobs(lambda _: run):
        return run_job(queue.enqueue(command="x", **{"max_retries": 0, **fields}))


@pytest.mark.django_db
class TestStoredResults:
    @pytest.mark.parametrize(
        "value",
        [
            {"rows": 3, "name": "grün 🌱"},
            [1, 2.5, None, True],
            "text",
            0,
            False,
            10**60,
            json.loads("[" * MOST_LEVELS + "]" * MOST_LEVELS),
            "x" * 60_000,
        ],
    )
    def test_a_json_result_is_read_back_unchanged(self, value: Any) -> None:
        job = ended(json.dumps(value).encode())
        assert (job.status, job.last_error, job.result) == (JobStatus.COMPLETED, "", value)

    @pytest.mark.shows("howto/results.md#what-is-accepted")
    @pytest.mark.parametrize("left", [None, b""])
    def test_a_job_that_writes_no_result_has_none(self, left: bytes | None) -> None:
        job = ended(left)
        assert (job.status, job.last_error, job.result) == (JobStatus.COMPLETED, "", None)
        assert job.output(stream="system") == b""

    @pytest.mark.parametrize(
        ("left", "why"),
        [
            (b"{", "It is no JSON"),
            (b"NaN", "It is no JSON"),
            (b'{"a": 1e999}', "It is no JSON"),
            (b"\xff\xfe", "It is not UTF-8"),
            (b"[" * 50_000, "It has more than 30 levels"),
            (b'"\\u0000"', "It has the character"),
            (b'"\\ud800"', "It has the character"),
            (b'"' + b"x" * 65_536 + b'"', "It has more than 65536 bytes"),
        ],
    )
    def test_a_result_that_cannot_be_stored_is_reported_and_the_job_still_completes(
        self, left: bytes, why: str
    ) -> None:
        job = ended(left)
        assert (job.status, job.exit_code, job.result) == (JobStatus.COMPLETED, 0, None)
        said = f"The job's result is not stored: {why}"
        assert job.attempts.get().message.startswith(said)
        assert job.last_error.startswith(said)
        assert job.output(stream="system").decode().startswith(said)

    def test_a_result_that_the_executor_refuses_is_reported_with_its_message(self) -> None:
        job = ended(None, refused="It is a symbolic link.")
        assert job.last_error == "The job's result is not stored: It is a symbolic link."

    def test_a_failed_job_keeps_its_error_message_and_its_attempt_keeps_the_result(self) -> None:
        job = ended(b'{"done": 7}', code=3)
        assert (job.status, job.failure_reason, job.exit_code) == (JobStatus.FAILED, "error", 3)
        assert job.last_error.startswith("Exit code 3.")
        assert job.result is None
        assert job.attempts.get().result == {"done": 7}

    def test_a_retry_has_a_result_of_its_own(self) -> None:
        job = ended(b'{"try": 1}', code=1)
        queue.retry(job)
        with fake_jobs(lambda _: FakeRun(result={"try": 2})):
            run_job(job)
        assert job.result == {"try": 2}
        assert [attempt.result for attempt in job.attempts.order_by("number")] == [{"try": 1}, {"try": 2}]

    def test_the_limit_of_a_results_size_is_a_setting(self) -> None:
        with override_settings(CONTAINER_MANAGER={"RESULT_LIMIT_BYTES": 10}):
            assert ended(b'"12345678"').result == "12345678"
            assert ended(b'"123456789"').last_error.endswith("It has more than 10 bytes.")

    def test_the_values_of_secrets_are_masked_in_results(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CM_SECRET_TOKEN", 'hunter"2\\ü')
        given = {"SECRETS": {"env:CM_SECRET_TOKEN": ""}}
        with override_settings(CONTAINER_MANAGER=given):
            left = json.dumps({'token hunter"2\\ü': ['is hunter"2\\ü'], "n": 1}).encode()
            job = ended(left, secrets={"TOKEN": "env:CM_SECRET_TOKEN"}, actor="test")
        assert job.result == {"token ***": ["is ***"], "n": 1}


@pytest.mark.django_db
def test_a_local_process_writes_its_result_into_a_file(tmp_path: Path) -> None:
    job = run_job(queue.enqueue(command=WRITES.format('{"rows": 3}', 0)))
    assert (job.status, job.result) == (JobStatus.COMPLETED, {"rows": 3})


@pytest.mark.django_db(transaction=True)
class TestWaitingForResults:
    def test_a_wait_for_a_result_returns_the_result(self, tmp_path: Path) -> None:
        job = queue.enqueue(command=WRITES.format("[1, 2]", 0))
        with worker(log=tmp_path / "log"):
            assert job.wait_result(PATIENCE_SECONDS) == [1, 2]
            again = queue.enqueue(command=WRITES.format("[3]", 0))
            assert async_to_sync(again.await_result)(PATIENCE_SECONDS) == [3]

    def test_a_wait_for_a_result_raises_if_the_job_fails_or_is_cancelled(self) -> None:
        failed = ended(b"1", code=3)
        with pytest.raises(JobNotCompleted, match=f"Job {failed.pk} is failed .error.: Exit code 3") as error:
            failed.wait_result(0)
        assert error.value.job is failed
        cancelled = queue.enqueue(command="true")
        queue.cancel(cancelled)
        with pytest.raises(JobNotCompleted, match="is cancelled"):
            async_to_sync(cancelled.await_result)(0)


@pytest.mark.without_database
class TestResultFile:
    @pytest.fixture
    def place(self, tmp_path: Path) -> ResultFile:
        return ResultFile(str(tmp_path / "result"), 100)

    def test_a_result_file_is_read_once(self, place: ResultFile) -> None:
        Path(place.path).write_bytes(b"x" * 100)
        assert place.take() == (b"x" * 100, "")
        assert place.take() == (None, "")

    def test_a_result_file_that_is_too_large_is_not_read_further(self, place: ResultFile) -> None:
        with Path(place.path).open("wb") as file:
            file.truncate(1 << 40)
        assert place.take() == (None, "It has more than 100 bytes.")
        assert not Path(place.path).exists()

    def test_a_symbolic_link_in_place_of_a_result_file_is_not_followed(self, place: ResultFile, tmp_path: Path) -> None:
        (target := tmp_path / "secret").write_text("1")
        Path(place.path).symlink_to(target)
        assert place.take() == (None, "It is a symbolic link.")
        assert target.exists()
        assert not Path(place.path).is_symlink()

    def test_a_fifo_in_place_of_a_result_file_does_not_block(self, place: ResultFile) -> None:
        os.mkfifo(place.path)
        assert place.take() == (None, "It is no regular file.")

    def test_a_folder_in_place_of_a_result_file_is_no_result(self, place: ResultFile) -> None:
        Path(place.path).mkdir()
        assert place.take() == (None, "It is no regular file.")

    def test_all_result_files_are_removed_when_the_executor_is_closed(self) -> None:
        files = ResultFiles(100)
        place = Path(files.of("cm-1").path)
        (place / "folder").mkdir(parents=True)
        assert place.parent.stat().st_mode & 0o077 == 0
        files.close()
        assert not place.parent.exists()
