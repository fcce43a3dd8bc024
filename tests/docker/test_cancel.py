"""Cancelling a job stops its container, TERM first, and closes its attempt, by any worker that is alive."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from container_manager import queue
from container_manager.models import ContainerJob, JobAttempt

from ..jobs import journal_of
from ..workers import eventually
from .image import IMAGE
from .proxy import Side, proxy
from .registry import Registry
from .site import BEGUN, DONE, Site, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_LIST = "admin:container_manager_containerjob_changelist"
_VARIABLE = "CM_REGISTRY_TESTS"
_CANCELLED = [("queued", "running"), ("running", "cancelled")]
_POLITE = f"trap '{DONE}; echo bye; exit 0' TERM; {BEGUN}; while :; do sleep 0.05; done"
_DEAF = f"trap 'echo no' TERM; {BEGUN}; while :; do sleep 0.05; done"


def cancel(job: ContainerJob) -> None:
    job.refresh_from_db()
    job.mark_as_cancelled(actor="alice")


def test_a_cancelled_container_may_end_itself(site: Site) -> None:
    with site.worker("--slots", "1"):
        job = site.enqueue(_POLITE, grace_seconds=30, max_retries=3)
        site.await_runs("begin 1")
        cancel(job)
        site.await_status(job, "cancelled")
        site.assert_clean()
    # It ended well, and is cancelled all the same.
    assert (site.runs(), output_of(job), attempts_of(job)) == (["begin 1", "end 1"], b"bye\n", [(1, 0, "")])
    assert (journal_of(job), job.status_changed_by) == (_CANCELLED, "alice")


def test_a_container_cancelled_in_the_admin_that_ignores_term_is_killed(site: Site) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    with site.worker("--slots", "2"):
        # Time enough to say that it heard of it.
        jobs = [site.enqueue(_DEAF, grace_seconds=5) for _ in range(2)]
        site.await_runs("begin 1", "begin 1")
        answer = client.post(reverse(_LIST), {"action": "cancel_jobs", "_selected_action": [job.pk for job in jobs]})
        assert answer.status_code == 302
        for job in jobs:
            site.await_status(job, "cancelled")
        site.assert_clean()
    for job in jobs:
        attempt = job.attempts.get()
        assert (attempt.exit_code, attempt.signal) == (137, 9)
        assert b"no" in output_of(job)
        assert (journal_of(job), job.status_changed_by) == (_CANCELLED, "root")


@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled", "explanation/attacks.md#endless-grace-period")
def test_a_cancelled_container_in_a_long_grace_period_can_be_killed(site: Site) -> None:
    with site.worker("--slots", "1"):
        job = site.enqueue(_DEAF, grace_seconds=86400)
        site.await_runs("begin 1")
        cancel(job)
        eventually(lambda: b"no" in site.said(job))
        queue.cancel(job, now=True)
        site.await_status(job, "cancelled")
        site.assert_clean()
    assert (attempts_of(job), journal_of(job)) == ([(1, 137, "")], _CANCELLED)


@pytest.mark.parametrize("script", [_POLITE, _DEAF], ids=["polite", "deaf"])
def test_another_worker_stops_a_job_cancelled_while_its_worker_is_dead(site: Site, script: str) -> None:
    with site.worker("--slots", "1") as first:
        job = site.enqueue(script, grace_seconds=1)
        site.await_runs("begin 1")
        eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
        site.kill(first)
    cancel(job)
    assert [container["State"] for container in site.containers()] == ["running"]
    assert JobAttempt.objects.get(job=job).finished_at is None
    with site.worker("--slots", "1"):
        site.await_status(job, "cancelled")
        site.assert_clean()
    assert job.attempts.count() == 1
    assert journal_of(job) == _CANCELLED


def test_another_worker_ends_a_cancel_whose_worker_died_in_the_grace_period(site: Site, tmp_path: Path) -> None:
    with proxy(site.url, tmp_path) as way, site.worker("--slots", "1", url=way.url) as first:
        job = site.enqueue(_DEAF, grace_seconds=6)
        site.await_runs("begin 1")
        eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
        way.hold("POST /[^ ]*/stop", "answer")
        cancel(job)
        eventually(lambda: b"no" in site.said(job))
        site.kill(first)
    with site.worker("--slots", "1"):
        site.await_status(job, "cancelled")
        site.assert_clean()
    assert (attempts_of(job), journal_of(job)) == ([(1, 137, "")], _CANCELLED)


@pytest.mark.parametrize(
    "request_line", ["POST /[^ ]*/containers/create", "POST /[^ ]*/start"], ids=["create", "start"]
)
@pytest.mark.parametrize("side", ["request", "answer"])
@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
def test_a_job_is_cancelled_during_its_launch(
    site: Site, tmp_path: Path, request_line: str, side: Side, dies: bool
) -> None:
    """The worker hears of it while it waits for the daemon, or dies there."""
    with proxy(site.url, tmp_path) as way, site.worker("--slots", "1", url=way.url) as first:
        way.hold(request_line, side)
        job = site.enqueue(_POLITE)
        way.await_held()
        cancel(job)
        if dies:
            site.kill(first)
            way.cut()
            with site.worker("--slots", "1"):
                site.await_status(job, "cancelled")
                site.assert_clean()
        else:
            eventually(lambda: f"Job {job.pk} is cancelled" in site.log.read_text())
            way.release()
            site.await_status(job, "cancelled")
            site.assert_clean()
    assert journal_of(job) == _CANCELLED
    # What is cancelled before its container is there never runs; else once at most.
    assert site.runs() in ([[]] if "create" in request_line else [[], ["begin 1"], ["begin 1", "end 1"]])


def test_a_job_is_cancelled_while_others_are_launched(site: Site, tmp_path: Path) -> None:
    """What still waits for a launch thread is never started."""
    with proxy(site.url, tmp_path) as way, site.worker("--slots", "12", url=way.url):
        way.hold("POST /[^ ]*/start", "request")
        jobs = [site.enqueue(f"{BEGUN}; sleep 600", grace_seconds=0) for _ in range(12)]
        way.await_held()
        eventually(lambda: JobAttempt.objects.count() == 12)
        for job in jobs:
            cancel(job)
        eventually(lambda: site.log.read_text().count("is cancelled") == 12)
        way.release()
        for job in jobs:
            site.await_status(job, "cancelled")
            assert journal_of(job) == _CANCELLED
        site.assert_clean()


def test_a_job_is_cancelled_while_its_image_is_pulled(
    docker_url: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_VARIABLE, registry.password)
    image = f"{registry.address}/team/job:1"
    login = {registry.address: {"username": registry.user, "password": f"env:{_VARIABLE}"}}
    site = Site(
        docker_url,
        tmp_path,
        images=[IMAGE, f"{registry.address}/*"],
        registries=login,
        pull="always",
        # Who waited for the daemon would do so for longer than a test may take.
        timeout_seconds=3600,
    )
    try:
        with proxy(site.url, tmp_path) as way:
            way.hold("POST /[^ ]*/images/create", "answer")
            with site.worker("--slots", "1", url=way.url):
                job = site.enqueue(_POLITE, image=image)
                way.await_held()
                cancel(job)
                # The daemon has said nothing at all of that pull.
                site.await_status(job, "cancelled")
                assert site.containers() == []
                way.release()
                # The worker is free for others.
                later = site.enqueue("true", image=image)
                site.await_status(later, "completed")
                site.assert_clean()
        assert site.runs() == []
        assert journal_of(job) == _CANCELLED
    finally:
        site.clean_up()
