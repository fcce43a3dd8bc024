"""The daemon's description of an end becomes the right exit status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from container_manager.conf import RetrySettings
from container_manager.executors.docker.exits import exit_status
from container_manager.jobs.spec import JobSpec
from container_manager.store import ClaimedJob
from container_manager.worker.outcomes import failure_reason, outcome_of

pytestmark = pytest.mark.without_database

_TINI = "[FATAL tini (7)] exec {} failed: {}\n"


@pytest.mark.parametrize(
    ("state", "out_of_memory", "complaint", "reason"),
    [
        ({"ExitCode": 3}, False, "", "error"),
        ({"ExitCode": 137}, False, "", "signal"),
        ({"ExitCode": 143}, False, "", "signal"),
        ({"ExitCode": 128}, False, "", "error"),
        ({"ExitCode": 255}, False, "", "error"),
        ({"ExitCode": 137, "OOMKilled": True}, False, "", "oom"),
        ({"ExitCode": 137, "OOMKilled": False}, True, "", "oom"),
        ({"ExitCode": 1, "OOMKilled": True}, False, "", "oom"),
        ({"ExitCode": 127}, False, _TINI.format("no-such", "No such file or directory"), "start"),
        ({"ExitCode": 126}, False, _TINI.format("/etc/passwd", "Permission denied"), "start"),
        ({"ExitCode": 1}, False, _TINI.format("/loop", "Too many levels of symbolic links"), "start"),
        ({"ExitCode": 127}, False, _TINI.format("", "No such file or directory"), "start"),
        ({"ExitCode": 1}, False, "exec /sbin/docker-init: argument list too long\n", "start"),
        ({"ExitCode": 1}, False, "I exec /sbin/docker-init: often\n", "error"),
        ({"ExitCode": 1}, False, "ERROR (catatonit:7): failed to exec pid1: No such file or directory\n", "start"),
        ({"ExitCode": 127}, False, "\nI: ERROR (catatonit:7): failed to exec pid1: often\n", "error"),
        ({"ExitCode": 3}, False, "ERROR (catatonit:7): failed to exec pid1: Permission denied\n", "error"),
        # Whoever says more has been started.
        ({"ExitCode": 127}, False, "begun\n" + _TINI.format("a", "b"), "error"),
        ({"ExitCode": 127}, False, _TINI.format("a", "b") + "and more\n", "error"),
        ({"ExitCode": 127}, False, "begun\nERROR (catatonit:7): failed to exec pid1: often\n", "error"),
        ({"ExitCode": 127}, False, "sh: no-such: not found\n", "error"),
        ({"ExitCode": 3}, False, _TINI.format("a", "b"), "error"),
    ],
)
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_each_exit_of_a_container_has_its_failure_reason(
    state: dict[str, Any], out_of_memory: bool, complaint: str, reason: str
) -> None:
    status = exit_status(state, out_of_memory=out_of_memory, complaint=complaint)
    assert status.code == state["ExitCode"]
    assert not status.succeeded
    assert failure_reason(status, None) == reason


@pytest.mark.parametrize("code", [0, 7, 127, 137, 255])
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_an_exit_that_the_daemon_did_not_observe_is_lost_whatever_its_code(code: int) -> None:
    status = exit_status({"ExitCode": code}, is_known=False, complaint=_TINI.format("a", "b"), memory_bytes=4096)
    assert (status.succeeded, status.code, failure_reason(status, None)) == (False, None, "lost")
    assert f"exit code {code}" in status.message


@pytest.mark.parametrize("oom", [False, True])
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_child_out_of_memory_does_not_fail_a_command_that_succeeds(oom: bool) -> None:
    status = exit_status({"ExitCode": 0, "OOMKilled": True}, out_of_memory=oom)
    assert (status.succeeded, status.oom, status.signal) == (True, False, None)


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_kill_under_a_memory_limit_may_mean_out_of_memory() -> None:
    status = exit_status({"ExitCode": 137, "OOMKilled": False}, memory_bytes=4096)
    assert (status.oom, status.signal) == (False, 9)
    assert "Perhaps it was out of memory (limit: 4096 bytes)" in status.message
    assert exit_status({"ExitCode": 137, "OOMKilled": False}).message == ""


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_out_of_memory_names_the_limit_that_was_in_force_whoever_set_it() -> None:
    state = {"ExitCode": 137, "OOMKilled": True}
    # The job itself asked for none: this is its executor's.
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(memory_bytes=None))
    for limit, said in ((4096, "(limit: 4096 bytes)"), (0, "its host had no more")):
        found = exit_status(state, memory_bytes=limit)
        message = outcome_of(job, found, stopped_for=None, retry=RetrySettings()).message
        assert message.startswith("Out of memory")
        assert said in message
        assert "None" not in message


def test_the_program_that_could_not_be_started_is_named() -> None:
    words = _TINI.format("no such", "No such file or directory")
    status = exit_status({"ExitCode": 127}, out_of_memory=False, complaint=words)
    assert status.message == "'no such' could not be started: No such file or directory."
    # Podman's init process does not name it.
    words = "ERROR (catatonit:2): failed to exec pid1: No such file\n"
    status = exit_status({"ExitCode": 1}, complaint=words, program="/no/such")
    assert status.message == "'/no/such' could not be started: No such file."


def test_a_container_that_was_never_started_and_cannot_be_removed_has_not_succeeded() -> None:
    status = exit_status({"ExitCode": 0, "Status": "dead", "StartedAt": "0001-01-01T00:00:00Z"})
    assert (status.succeeded, status.lost) == (False, True)
