"""A worker is killed at each step of an attempt: the next one goes on, and each container has run once."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from container_manager.models import JobAttempt, Worker

from ..jobs import journal_of
from ..test_locked_rows import holding, lock_job
from ..workers import eventually
from .daemon import Daemon
from .proxy import Proxy, Side, proxy
from .site import BEGUN, DONE, Site, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_ONCE = [("queued", "running"), ("running", "completed")]


@pytest.fixture
def site(quiet_daemon: Daemon, tmp_path: Path) -> Iterator[Site]:
    """An installation on a daemon that still knows whether a container was started when its worker is replaced."""
    site = Site(quiet_daemon.url, tmp_path)
    yield site
    site.clean_up()


@pytest.mark.parametrize(
    ("request_line", "side", "before"),
    [
        ("POST /[^ ]*/containers/create", "request", []),
        ("POST /[^ ]*/containers/create", "answer", ["created"]),
        ("POST /[^ ]*/start", "request", ["created"]),
        ("POST /[^ ]*/start", "answer", ["running"]),
    ],
    ids=["before create", "created and not told", "before start", "started and not told"],
)
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_job_runs_once_when_its_worker_is_killed_during_the_launch(
    site: Site, tmp_path: Path, request_line: str, side: Side, before: list[str]
) -> None:
    with proxy(site.url, tmp_path) as way:
        way.hold(request_line, side)
        with site.worker("--slots", "1", url=way.url) as first:
            job = site.enqueue(f"{BEGUN}; echo once; {DONE}", max_retries=3)
            way.await_held()
            # The daemon's answer to the test may overtake what it does for the worker.
            eventually(
                lambda: [each["State"] for each in site.containers()] in (before, ["exited"] * (before == ["running"]))
            )
            site.kill(first)
    assert JobAttempt.objects.get(job=job).handle == ""
    with site.worker("--slots", "1"):
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]
    assert site.runs() == ["begin 1", "end 1"]
    assert (output_of(job), journal_of(job)) == (b"once\n", _ONCE)


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_container_that_may_have_run_when_worker_and_daemon_died_is_not_started_again(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    """A daemon that dies as it starts a container calls it created; nobody is left who asked for that."""
    site = Site(own_daemon.url, tmp_path)
    with proxy(site.url, tmp_path) as way:
        way.hold("POST /[^ ]*/start", "request")
        with site.worker("--slots", "1", url=way.url) as first:
            job = site.enqueue(f"{BEGUN}; {DONE}", max_retries=3)
            way.await_held()
            site.kill(first)
    own_daemon.kill()
    own_daemon.start()
    assert [each["State"] for each in site.containers()] == ["created"]
    with site.worker("--slots", "1"):
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, None, "lost"), (2, 0, "")]
    assert site.runs() == ["begin 2", "end 2"]
    site.clean_up()


class BreaksOff(Proxy):
    """Passes on each start, and answers as a daemon does whose connection to its runtime breaks off meanwhile."""

    _started = False

    def _look_at(self, data: bytes, holds: threading.Event) -> None:
        super()._look_at(data, holds)
        self._started = re.match(rb"POST /[^ ]*/start", data) is not None

    def answer(self, data: bytes) -> bytes:
        if not self._started or not data.startswith(b"HTTP/1.1 204"):
            return data
        body = b'{"message": "rpc error: code = Unavailable desc = error reading from server: EOF"}'
        head = f"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_job_that_ran_despite_a_failed_start_request_runs_once_when_its_worker_is_killed_before_its_outcome_is_stored(
    site: Site, tmp_path: Path
) -> None:
    way = BreaksOff(site.url, tmp_path)
    try:
        way.hold("POST /[^ ]*/start", "request")
        with site.worker("--slots", "1", url=way.url) as first:
            job = site.enqueue(f"{BEGUN}; {DONE}", max_retries=3)
            way.await_held()
            with holding(lock_job, job):
                way.release()
                eventually(lambda: f"end of job={job.pk} attempt=1 is not stored yet" in site.log.read_text())
                site.kill(first)
    finally:
        way.close()
    with site.worker("--slots", "1"):
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]
    assert site.runs() == ["begin 1", "end 1"]


@pytest.mark.parametrize("code", [0, 5])
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_job_runs_once_when_its_worker_is_killed_while_it_runs(site: Site, code: int) -> None:
    go = site.gate()
    with site.worker("--slots", "1") as first:
        job = site.enqueue(f"echo first; {BEGUN}; read word < $EFFECTS/go; echo last; {DONE}; exit {code}")
        eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
        site.await_runs("begin 1")
        first.kill()
        first.wait()
    with site.worker("--slots", "1") as second:
        heir = Worker.objects.get(pid=second.pid).pk
        eventually(lambda: JobAttempt.objects.filter(job=job, worker=heir).exists())
        go.write_text("\n")
        site.await_status(job, "completed" if code == 0 else "failed")
        site.assert_clean()
    assert attempts_of(job) == [(1, code, "error" if code else "")]
    assert site.runs() == ["begin 1", "end 1"]
    assert output_of(job) == b"first\nlast\n"


def test_jobs_run_once_when_a_worker_with_many_containers_is_killed(site: Site) -> None:
    """Three workers are killed one after the other, in the middle of everything."""
    jobs = [
        site.enqueue(
            f'echo {number}; echo "begin $CONTAINER_MANAGER_ATTEMPT-{number}" >> $EFFECTS/runs; sleep 0.5; echo "end $CONTAINER_MANAGER_ATTEMPT-{number}" >> $EFFECTS/runs',
            max_retries=3,
        )
        for number in range(16)
    ]
    for round_ in range(1, 4):
        with site.worker("--slots", "4") as doomed:
            eventually(lambda round_=round_: JobAttempt.objects.count() >= 4 * round_)
            site.kill(doomed)
    with site.worker("--slots", "6"):
        for job in jobs:
            site.await_status(job, "completed")
        site.assert_clean()
    assert [attempts_of(job) for job in jobs] == [[(1, 0, "")]] * 16
    assert sorted(site.runs()) == sorted(f"{word} 1-{number}" for word in ("begin", "end") for number in range(16))
    assert [output_of(job) for job in jobs] == [f"{number}\n".encode() for number in range(16)]


@pytest.mark.parametrize(
    ("request_line", "stored"),
    [("GET /[^ ]*/containers/cm-[^ ]*/json", False), ("DELETE /[^ ]*/containers/", True)],
    ids=["before its end is stored", "before its container is removed"],
)
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_job_runs_once_when_its_worker_is_killed_after_the_exit(
    site: Site, tmp_path: Path, request_line: str, stored: bool
) -> None:
    go = site.gate()
    with proxy(site.url, tmp_path) as way, site.worker("--slots", "1", url=way.url) as first:
        job = site.enqueue(f"{BEGUN}; read word < $EFFECTS/go; echo last; {DONE}")
        site.await_runs("begin 1")
        eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
        way.hold(request_line, "request")
        go.write_text("\n")
        way.await_held()
        eventually(lambda: [each["State"] for each in site.containers()] == ["exited"])
        site.await_status(job, "completed" if stored else "running", attempts=stored)
        site.kill(first)
    with site.worker("--slots", "1"):
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]
    assert site.runs() == ["begin 1", "end 1"]
    assert (output_of(job), journal_of(job)) == (b"last\n", _ONCE)
