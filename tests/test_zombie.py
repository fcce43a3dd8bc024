"""A zombie: a worker that was frozen until its lease expired wakes up and believes that it still owns its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection, transaction

from container_manager import queue, store
from container_manager.executors.base import LaunchSpec, Phase, Unavailable
from container_manager.executors.process import ProcessExecutor
from container_manager.jobs.progress_lines import Progress
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker

from .jobs import journal_of
from .polling import PATIENCE_SECONDS, eventually
from .protocol.records import expire_lease, records_of, register, rescue

pytestmark = pytest.mark.django_db(transaction=True)

# Neither must expire by itself on a busy machine. The heir watches the other worker for half of its own, so that the
# zombie's may be as long without more of a wait.
_LEASE_SECONDS, _HEIRS_LEASE_SECONDS = 7.5, 15.0


def rescued() -> ContainerJob:
    """Return a job that was claimed by "zombie", and then rescued by "heir"."""
    register("zombie")
    register("heir")
    job = queue.enqueue(command="true")
    claim("zombie")
    append(job, 1, 0, b"first run\n", worker="zombie")
    expire_lease("zombie")
    assert rescue("heir") == 1
    return job


def running_again() -> ContainerJob:
    job = rescued()
    lost = outcome(job, 1, "failed", reason="lost", message="Lost.", retry_after_seconds=-1.0)
    assert store.finish([lost], worker="heir", using="default") == {(job.pk, 1)}
    assert store.promote_retries(using="default") == 1
    claim("heir")
    append(job, 2, 0, b"second run\n", worker="heir")
    store.record_launches([store.Launch(job.pk, 2, "second")], worker="heir", using="default")
    return job


def completed() -> ContainerJob:
    job = running_again()
    assert store.finish([outcome(job, 2, "completed", exit_code=0)], worker="heir", using="default") == {(job.pk, 2)}
    return job


def cancelled() -> ContainerJob:
    job = running_again()
    job.refresh_from_db()
    job.mark_as_cancelled(actor="alice")
    return job


def claim(worker: str) -> None:
    assert len(store.claim(worker=worker, executors=["default"], limit=1, using="default")) == 1


def outcome(job: ContainerJob, attempt: int, status: str | None, **values: Any) -> store.Outcome:
    return store.Outcome(job_id=job.pk, attempt=attempt, status=status, **values)


def append(
    job: ContainerJob,
    attempt: int,
    sequence: int,
    data: bytes,
    *,
    worker: str,
    gone: tuple[int, int] | None = None,
) -> None:
    entry = store.LogEntry(sequence=sequence, stream="stdout", data=data)
    change = store.LogChange(job_id=job.pk, attempt=attempt, entries=[entry], gone=gone)
    store.store_logs([change], worker=worker, using="default")


@pytest.mark.parametrize("moment", [rescued, running_again, completed, cancelled])
@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize(
    "end",
    [
        {"status": "completed", "exit_code": 0},
        {"status": "failed", "exit_code": 1, "reason": "error", "message": "From the grave."},
        {"status": "failed", "reason": "lost", "retry_after_seconds": 0.0},
        {"status": None, "signal": 9},
    ],
    ids=["complete", "fail", "retry", "close"],
)
@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_a_zombie_worker_cannot_finish_the_job(
    moment: Callable[[], ContainerJob], attempt: int, end: dict[str, Any]
) -> None:
    job = moment()
    before = records_of(job)
    assert store.finish([outcome(job, attempt, **end)], worker="zombie", using="default") == set()
    assert records_of(job) == before


@pytest.mark.parametrize("moment", [rescued, running_again, completed, cancelled])
@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_a_zombie_worker_can_neither_renew_its_lease_nor_write_nor_rescue_the_job(
    moment: Callable[[], ContainerJob],
) -> None:
    job = moment()
    before = records_of(job)
    assert not store.renew_lease("zombie", lease_seconds=60.0, using="default")
    for attempt, sequence in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0)):
        append(job, attempt, sequence, b"from the grave\n", worker="zombie", gone=(0, 9))
    store.record_launches(
        [store.Launch(job.pk, number, "zombie's") for number in (1, 2)], worker="zombie", using="default"
    )
    said = [store.ProgressChange(job.pk, number, Progress(done=1, total=2)) for number in (1, 2, 3)]
    assert store.store_progress(said, worker="zombie", using="default") == set()
    assert store.owned_attempts(worker="zombie", using="default") == []
    assert rescue("zombie") == 0
    assert store.claim(worker="zombie", executors=["default"], limit=9, using="default") == []
    assert records_of(job) == before


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start ``container worker`` on the tests' database; its log is ``<name>.log``. Killed at the end."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
    }

    def start(name: str, *, lease_seconds: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "django", "container", "worker", "--slots", "2"]
        variables = {**environment, "CM_WORKER_LEASE_SECONDS": str(lease_seconds)}
        with (tmp_path / f"{name}.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.wait()
    for log in sorted(tmp_path.glob("*.log")):
        sys.stdout.write(f"{log.name}:\n{log.read_text()}\n")  # shown where the test fails


def status_is(job: ContainerJob, status: str) -> Callable[[], bool]:
    return ContainerJob.objects.filter(pk=job.pk, status=status).exists


def freeze(worker: subprocess.Popen[bytes]) -> None:
    """Freeze a process, but not while it has SQLite's lock, which would block all others: here this process has it."""
    with transaction.atomic():
        worker.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)


def row_of_process(worker: subprocess.Popen[bytes]) -> Any:
    return Worker.objects.filter(pid=worker.pid)


@pytest.mark.parametrize(
    "settled",
    [
        pytest.param(False, id="as_its_job_starts", marks=pytest.mark.usual_statements),
        pytest.param(True, id="while_its_job_runs"),
    ],
)
@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_a_frozen_worker_loses_its_job_and_goes_on_under_a_new_id(
    start_worker: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, settled: bool
) -> None:
    first, second, go, frozen = (tmp_path / name for name in ("first", "second", "go", "frozen"))
    os.mkfifo(go)
    os.mkfifo(frozen)
    script = tmp_path / "job.sh"
    script.write_text(
        f"""
        if [ "$CONTAINER_MANAGER_ATTEMPT" = 1 ]; then
            trap '' TERM
            sleep 600 &
            echo "$$ $!" > {first}.new && mv {first}.new {first}
            # Wait before the output: the frozen worker cannot store it, however slow the test is.
            {"" if settled else f"read word < {frozen}"}
            echo "run 1"
            while :; do wait; done
        fi
        echo "run 2"
        : > {second}
        read pids < {go}
        for pid in $pids; do kill -0 $pid 2> /dev/null && echo "$pid of the first run is still there"; done
        echo done
        """
    )
    job = queue.enqueue(command=f"sh {script}")

    zombie = start_worker("zombie", lease_seconds=_LEASE_SECONDS)
    if settled:
        eventually(JobLog.objects.exists)
        freeze(zombie)
    else:
        with frozen.open("w") as word:  # returns once the command reads
            freeze(zombie)
            word.write("\n")
    pids = first.read_text()
    old_name = row_of_process(zombie).get().pk

    heir = start_worker("heir", lease_seconds=_HEIRS_LEASE_SECONDS)
    eventually(second.exists)
    go.write_text(pids)
    eventually(status_is(job, "completed"))
    eventually(lambda: not JobAttempt.objects.filter(finished_at=None).exists())
    before = records_of(job)
    assert [(row["number"], row["reason"]) for row in before["attempts"]] == [(1, "lost"), (2, "")]
    # Output that a frozen worker has not stored yet is lost.
    assert b"".join(row["data"] for row in before["logs"]) == (b"run 1\n" if settled else b"") + b"run 2\ndone\n"
    assert journal_of(job) == [
        ("queued", "running"), ("running", "failed"), ("failed", "retrying"),
        ("retrying", "queued"), ("queued", "running"), ("running", "completed"),
    ]  # fmt: skip
    heir.send_signal(signal.SIGTERM)
    assert heir.wait(timeout=PATIENCE_SECONDS) == 0

    zombie.send_signal(signal.SIGCONT)
    new_name = eventually(lambda: row_of_process(zombie).exclude(pk=old_name).values_list("pk", flat=True).first())
    assert not Worker.objects.filter(pk=old_name).exists()
    later = queue.enqueue(command="echo again")
    eventually(status_is(later, "completed"))
    assert later.attempts.get().worker == new_name
    assert records_of(job) == before
    assert [pid for pid in pids.split() if Path(f"/proc/{pid}").exists()] == []

    zombie.send_signal(signal.SIGTERM)
    assert zombie.wait(timeout=PATIENCE_SECONDS) == 0
    log = (tmp_path / "zombie.log").read_text()
    assert "was revoked; it registers again" in log
    assert "Traceback" not in log
    assert records_of(job) == before


def submitted(executor: ProcessExecutor, spec: LaunchSpec) -> str | None:
    with suppress(Unavailable):
        return executor.submit(spec)
    return None


def test_a_command_launched_after_the_lease_has_expired_does_not_run() -> None:
    executor = ProcessExecutor()
    try:
        assert executor.check().ok
        executor.heartbeat(-1.0)
        # Its keeper ends meanwhile: a launch that does not reach it any more is to be tried again.
        assert eventually(lambda: submitted(executor, LaunchSpec(key="late", argv=("sleep", "600")))) == "late"
        eventually(lambda: [o.exit.lost for o in executor.observe().attempts if o.exit] == [True])
        executor.heartbeat(60.0)
        executor.submit(LaunchSpec(key="in time", argv=("sleep", "600")))
        assert {o.key: o.phase for o in executor.observe().attempts} == {"late": Phase.EXITED, "in time": Phase.RUNNING}
    finally:
        executor.close()
