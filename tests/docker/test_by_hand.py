"""Containers of running jobs that people rename, pause, remove or kill with docker commands."""

from __future__ import annotations

import pytest

from container_manager.models import ContainerJob, JobAttempt

from ..polling import PATIENCE_SECONDS, eventually
from .site import BEGUN, DONE, Site, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_POLITE = f"echo begun; trap '{DONE}; exit 0' TERM; {BEGUN}; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done; echo last"


def name_of(site: Site, job: ContainerJob) -> str:
    """Return the name of a first attempt's container, once the database knows of it."""
    site.await_runs("begin 1")
    eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
    return f"cm-{site.install}-{job.pk.hex}-1"


def cancel(job: ContainerJob) -> None:
    job.refresh_from_db()
    job.mark_as_cancelled(actor="alice")


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_renamed_container_is_stopped_and_removed(site: Site) -> None:
    with site.worker("--slots", "1"):
        job = site.enqueue(_POLITE, grace_seconds=60)
        site.api.rename(name_of(site, job), f"mine-{job.pk.hex}")
        cancel(job)
        site.await_status(job, "cancelled")
        site.assert_clean()
    assert (site.runs(), attempts_of(job)) == (["begin 1", "end 1"], [(1, 0, "")])


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_the_end_and_all_output_of_a_renamed_container_are_seen(site: Site) -> None:
    with site.worker("--slots", "1"):
        job = site.enqueue(_POLITE, grace_seconds=60)
        site.api.rename(name_of(site, job), f"mine-{job.pk.hex}")
        (site.effects() / "go").touch()
        site.await_status(job, "completed")
        site.assert_clean()
    assert output_of(job) == b"begun\nlast\n"


@pytest.mark.parametrize("reason", ["cancelled", "timeout"])
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_paused_container_is_followed_to_its_end(site: Site, reason: str) -> None:
    with site.worker("--slots", "1"):
        job = site.enqueue(_POLITE, grace_seconds=60, timeout_seconds=15 if reason == "timeout" else None)
        site.api.pause(name_of(site, job))
        if reason == "cancelled":
            cancel(job)
        site.await_status(job, "cancelled" if reason == "cancelled" else "failed")
        site.assert_clean()
    assert site.runs() == ["begin 1", "end 1"]
    assert attempts_of(job) == [(1, 0, "" if reason == "cancelled" else "timeout")]


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_container_removed_by_hand_is_lost_and_a_container_killed_by_hand_is_reported_as_killed(site: Site) -> None:
    with site.worker("--slots", "1"):
        removed = site.enqueue(_POLITE, grace_seconds=60)
        site.api.remove_container(name_of(site, removed), force=True)
        site.await_status(removed, "failed")
        (site.effects() / "runs").unlink()
        killed = site.enqueue(_POLITE, grace_seconds=60)
        site.api.kill(name_of(site, killed))
        site.await_status(killed, "failed")
        site.assert_clean()
    assert (attempts_of(removed), attempts_of(killed)) == ([(1, None, "lost")], [(1, 137, "signal")])


def test_the_container_of_a_deleted_job_is_removed(site: Site) -> None:
    """By the next sweep: at once where a worker has just begun."""
    with site.worker("--slots", "1") as first:
        job = site.enqueue(_POLITE, grace_seconds=60)
        name_of(site, job)
        job.delete()
        other = site.enqueue("true")
        site.await_status(other, "completed")
        first.terminate()
        assert first.wait(timeout=PATIENCE_SECONDS) == 0
    with site.worker("--slots", "1"):
        site.assert_clean()
