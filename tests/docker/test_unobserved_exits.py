"""An exit code is believed only where its daemon has learnt it: else anything could be called a success."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from container_manager.testing.conformance import ended

from ..workers import eventually
from .daemon import Daemon
from .docker_harness import DockerHarness, launch
from .site import BEGUN, Site, attempts_of

# The daemon remembers 256 events.
_MORE_EVENTS_THAN_REMEMBERED = 300


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_a_job_whose_machine_crashes_is_lost_and_runs_again(own_daemon: Daemon, tmp_path: Path) -> None:
    site = Site(own_daemon.url, tmp_path)
    with site.worker():
        job = site.start(f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT != 1 ] || sleep 600", max_retries=1)
        own_daemon.crash_machine()
        own_daemon.start()
        site.await_status(job, "completed")
        # Docker says 255 of it, as of a command that ends with that.
        assert attempts_of(job) == [(1, None, "lost"), (2, 0, "")]
        site.assert_clean()
    site.clean_up()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("live_restore", [True, False])
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_an_exit_that_a_daemon_could_not_observe_is_no_success(
    new_daemon: Callable[..., Daemon], tmp_path: Path, live_restore: bool
) -> None:
    """It is killed while it starts, after it has taken the exit code from containerd and before it has stored it."""
    engine = new_daemon(live_restore=live_restore)
    site = Site(engine.url, tmp_path)
    go = site.gate()
    with site.worker():
        job = site.start(f"{BEGUN}; read word < $EFFECTS/go; echo end >> $EFFECTS/runs; exit 7")
        engine.kill()
        go.write_text("\n")
        site.await_runs("begin 1", "end")
        eventually(lambda: not engine.container_processes())
        engine.forget_ends()
        engine.start()
        site.await_status(job, "failed")
        assert attempts_of(job) == [(1, None, "lost")]
        assert "could not learn" in job.last_error
        site.assert_clean()
    site.clean_up()


@pytest.mark.parametrize("code", [0, 7, 255])
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_an_exit_that_the_daemon_observed_counts_when_its_event_is_forgotten(
    own_daemon: Daemon, tmp_path: Path, code: int
) -> None:
    # One that is shared would forget what other tests need at that moment.
    harness = DockerHarness(own_daemon.url, tmp_path)
    first = harness.executor()
    spec = harness.spec(f"exit {code}")
    launch(first, spec)
    assert ended(first, spec.key).code == code
    first.close()
    (container,) = harness.containers()
    for number in range(_MORE_EVENTS_THAN_REMEMBERED):
        harness.api.rename(container["Id"], f"{spec.key}-{number % 2}")
    harness.api.rename(container["Id"], spec.key)
    filters = {"container": container["Id"], "event": "die"}
    assert list(harness.api.events(since=0, until=int(time.time()) + 1, filters=filters)) == []
    heir = harness.executor()
    assert (ended(heir, spec.key).code, ended(heir, spec.key).lost) == (code, False)
    harness.clean_up()


@pytest.mark.parametrize("code", [0, 255])
def test_an_exit_after_a_restart_of_the_daemon_counts(
    new_daemon: Callable[..., Daemon], tmp_path: Path, code: int
) -> None:
    engine = new_daemon(live_restore=True)
    harness = DockerHarness(engine.url, tmp_path)
    go = harness.effects() / "go"
    spec = harness.spec(f"echo >> $EFFECTS/begun; until [ -e $EFFECTS/go ]; do sleep 0.05; done; exit {code}")
    launch(harness.executor(), spec)
    eventually((harness.effects() / "begun").exists)
    engine.kill()
    engine.start()
    heir = harness.executor()
    go.touch()
    assert (ended(heir, spec.key).code, ended(heir, spec.key).lost) == (code, False)
    harness.clean_up()
