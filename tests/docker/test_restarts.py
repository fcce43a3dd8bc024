"""A daemon that is stopped, killed or away for a while fails no job, and none runs twice at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from container_manager.executors.base import Executor, LaunchSpec, Rejected, Unavailable
from container_manager.executors.docker.flavours import flavour_of
from container_manager.models import ContainerJob, JobAttempt

from ..jobs import journal_of
from ..processes import has_ended
from ..workers import eventually
from .daemon import Daemon
from .docker_harness import DockerHarness
from .site import BEGUN, DONE, Site, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_ABSENT_SECONDS = 30
# Says that it runs as long as it does: two attempts at a time would be seen.
_ALONE = f"mkdir $EFFECTS/alone || echo DOUBLE >> $EFFECTS/runs; trap 'rmdir $EFFECTS/alone; exit 9' TERM; {BEGUN}"
_TICKS = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.01; done"


def is_success_doubted(site: Site) -> bool:
    """Return whether a success in the daemon's absence looks like an end that it could not learn."""
    return 0 in flavour_of(site.api.version()).unlearnt_codes


def assert_all_but_what_was_in_hand(lines: list[bytes]) -> None:
    """Assert that of 400 lines a daemon has all but what it had read and not yet stored when it ended: one short gap."""
    numbers = [int(line.removeprefix(b"line ")) for line in lines]
    gaps = [after - before for before, after in pairwise([-1, *numbers, 400]) if after - before != 1]
    assert (len(gaps) <= 1, all(1 < gap < 20 for gap in gaps)) == (True, True), gaps


def pid_of(site: Site, job: ContainerJob) -> int:
    """Return the pid of the first process of a first attempt."""
    return int(site.api.inspect_container(f"cm-{site.install}-{job.pk.hex}-1")["State"]["Pid"])


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
@pytest.mark.shows("explanation/worker.md#the-engine-is-away", "howto/docker.md#set-the-daemon-up")
def test_with_live_restore_jobs_survive_a_daemon_restart(
    new_daemon: Callable[..., Daemon], tmp_path: Path, crash: bool
) -> None:
    engine = new_daemon(live_restore=True)
    site = Site(engine.url, tmp_path)
    short, long, worse, printed = (site.gate(name) for name in ("short", "long", "worse", "printed"))
    with site.worker("--slots", "4"):
        ending = site.start(
            f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT != 1 ] || read word < $EFFECTS/short", max_retries=3
        )
        breaking = site.start(f"{BEGUN}; read word < $EFFECTS/worse; exit 7")
        failing = site.start(f"{BEGUN}; read word < $EFFECTS/long; echo late; exit 7")
        printing = site.start(f"{BEGUN}; {_TICKS}; read word < $EFFECTS/printed", max_retries=3)
        pids = [pid_of(site, job) for job in (ending, breaking)]
        (engine.kill if crash else engine.stop)()
        # These end while there is no daemon that could hear of it.
        short.write_text("\n")
        worse.write_text("\n")
        eventually(lambda: all(map(has_ended, pids)))
        waiting = site.enqueue(f"{BEGUN}; echo waited", max_retries=3)
        time.sleep(2)  # so long the daemon is away
        assert not ContainerJob.objects.exclude(status__in=["queued", "running"]).exists()
        engine.start()
        eventually(lambda: site.said(printing).endswith(b"line 399\n"))
        said = site.said(printing)
        printed.write_text("\n")
        for job in (printing, waiting):
            site.await_status(job, "completed")
            assert attempts_of(job)[-1:] == [(1, 0, "")]
        site.await_status(breaking, "failed")
        assert attempts_of(breaking) == [(1, 7, "error")]
        site.await_status(ending, "completed")
        assert attempts_of(ending) == ([(1, None, "lost"), (2, 0, "")] if is_success_doubted(site) else [(1, 0, "")])
        long.write_text("\n")
        site.await_status(failing, "failed")
        assert attempts_of(failing) == [(1, 7, "error")]
        assert output_of(failing) == b"late\n"
        assert output_of(printing) == said
        assert_all_but_what_was_in_hand(said.splitlines())
        assert output_of(waiting) == b"waited\n"
        assert [line for line in site.runs() if line != "begin 1"] == (["begin 2"] if is_success_doubted(site) else [])
        site.assert_clean()
    site.clean_up()


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
@pytest.mark.shows("explanation/worker.md#the-engine-is-away", "howto/docker.md#set-the-daemon-up")
def test_without_live_restore_jobs_that_the_daemon_stopped_run_again(
    own_daemon: Daemon, tmp_path: Path, crash: bool
) -> None:
    site = Site(own_daemon.url, tmp_path)
    script = f"{_ALONE}; if [ $CONTAINER_MANAGER_ATTEMPT = 1 ]; then while :; do sleep 0.05; done; fi; rmdir $EFFECTS/alone; {DONE}"
    with site.worker("--slots", "4"):
        job = site.start(script, max_retries=3)
        deaf = site.start(f"trap '' TERM; {BEGUN}; while :; do sleep 0.05; done")
        (own_daemon.kill if crash else own_daemon.stop)()
        assert not ContainerJob.objects.filter(status__in=["completed", "cancelled"]).exists()
        own_daemon.start()
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 9, "error"), (2, 0, "")]
        site.await_status(deaf, "failed")
        assert attempts_of(deaf) == [(1, 137, "signal")]
        assert [line for line in site.runs() if line != "begin 1"] == ["begin 2", "end 2"]
        site.assert_clean()
    assert journal_of(job)[:3] == [("queued", "running"), ("running", "failed"), ("failed", "retrying")]
    site.clean_up()


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_a_daemon_absent_for_half_a_minute_fails_nothing(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    engine = new_daemon(live_restore=True)
    site = Site(engine.url, tmp_path)
    go = site.gate()
    with site.worker("--slots", "4"):
        job = site.start(f"{BEGUN}; read word < $EFFECTS/go; echo back; {DONE}", max_retries=3)
        cancelled = site.start(f"{BEGUN}; while :; do sleep 0.05; done", grace_seconds=0)
        engine.kill()
        waiting = site.enqueue("echo waited", max_retries=3)
        cancelled.refresh_from_db()
        cancelled.mark_as_cancelled()
        deadline = time.monotonic() + _ABSENT_SECONDS
        while time.monotonic() < deadline:
            statuses = {each.pk: each.status for each in ContainerJob.objects.all()}
            assert (statuses[job.pk], statuses[cancelled.pk]) == ("running", "cancelled")
            assert statuses[waiting.pk] in ("queued", "running")
            # Nobody knows whether it still runs.
            assert JobAttempt.objects.filter(job=cancelled, finished_at=None).exists()
            time.sleep(0.2)  # samples
        engine.start()
        go.write_text("\n")
        for each in (job, waiting):
            site.await_status(each, "completed")
            assert attempts_of(each) == [(1, 0, "")]
        assert output_of(job) == b"back\n"
        site.await_status(cancelled, "cancelled")
        site.assert_clean()
    assert site.runs() == ["begin 1", "begin 1", "end 1"]
    site.clean_up()


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_a_daemon_absent_for_too_long_loses_jobs_and_none_runs_twice_at_once(
    new_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    engine = new_daemon(live_restore=True)
    site = Site(engine.url, tmp_path)
    # The second attempt looks whether the first one's heart still beats.
    heartbeat = f"{BEGUN}; while [ $CONTAINER_MANAGER_ATTEMPT = 1 ]; do date +%s.%N > $EFFECTS/beat; sleep 0.05; done"
    script = f"{heartbeat}; cp $EFFECTS/beat $EFFECTS/then; sleep 1; cmp $EFFECTS/beat $EFFECTS/then && {DONE}"
    with site.worker("--slots", "4", UNREACHABLE_SECONDS=3):
        job = site.start(script, max_retries=3)
        engine.kill()
        site.await_status(job, "retrying", "queued")
        assert attempts_of(job) == [(1, None, "lost")]
        engine.start()
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, None, "lost"), (2, 0, "")]
        assert site.runs() == ["begin 1", "begin 2", "end 2"]
        site.assert_clean()
    site.clean_up()


def test_a_daemon_that_crashes_while_it_starts_containers_runs_none_twice(own_daemon: Daemon, tmp_path: Path) -> None:
    """Each attempt has run at most once, and what is said to be completed has run to its end."""
    site = Site(own_daemon.url, tmp_path)
    script = 'echo "begin $NUMBER $CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/runs; sleep 0.3; echo "end $NUMBER $CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/runs'
    with site.worker("--slots", "8"):
        jobs: list[ContainerJob] = []
        for count in (12, 8):
            running = len(site.runs())
            # However much has run by now, this much is still to be started.
            jobs += [
                site.enqueue(f"NUMBER={number}; {script}", max_retries=9)
                for number in range(len(jobs), len(jobs) + count)
            ]
            eventually(lambda running=running: len(site.runs()) > running + 2)
            own_daemon.kill()
            own_daemon.start()
        for job in jobs:
            site.await_status(job, "completed")
        site.assert_clean()
    runs = site.runs()
    assert sorted(set(runs)) == sorted(runs)
    for number, job in enumerate(jobs):
        assert f"end {number} {job.attempt}" in runs
        assert [reason for *_, reason in attempts_of(job)][-1] == ""
    site.clean_up()


def test_another_worker_learns_at_once_that_a_start_was_interrupted(own_daemon: Daemon, tmp_path: Path) -> None:
    """The daemon says that in its own way, which must not be taken for its being away."""
    harness = DockerHarness(own_daemon.url, tmp_path)
    first, second = harness.executor(), harness.executor()
    specs = [harness.spec("echo >> $EFFECTS/runs; sleep 600") for _ in range(12)]

    def launch(executor: Executor, spec: LaunchSpec) -> str:
        try:
            executor.submit(spec)
        except Rejected as error:
            return error.reason
        except Unavailable as error:
            return f"unavailable: {error}"
        return "started"

    with ThreadPoolExecutor(len(specs)) as threads:
        results = [threads.submit(launch, first, spec) for spec in specs]
        eventually((harness.effects() / "runs").exists)
        own_daemon.kill()
        for result in results:
            result.result()
        own_daemon.start()
        # All at once: each of them takes a while.
        assert set(threads.map(partial(launch, second), specs)) <= {"started", "lost"}
    first.close()
    second.close()
    harness.clean_up()
