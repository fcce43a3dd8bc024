"""A job's page while a real worker runs the job."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from container_manager.models import ContainerJob
from container_manager.queue import cancel, enqueue

from ..polling import PATIENCE_SECONDS, eventually
from ..workers import worker
from .conftest import ALL_AND_SECRETS, expect, screenshot

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.django_db(transaction=True)]
Visit = Callable[..., Any]
WAIT = PATIENCE_SECONDS * 1000


def url(job: ContainerJob) -> str:
    return f"/jobs/jobs/{job.pk}/"


def badge(page: Page) -> Any:
    return page.locator("h1 .cd-badge")


def waits_for(tmp_path: Path, name: str) -> str:
    """Return the words of a shell that wait until the test makes a file."""
    return f"until [ -e {tmp_path}/{name} ]; do sleep 0.05; done"


@pytest.mark.shows("howto/dashboard.md#what-a-job-does-and-why")
def test_a_page_shows_its_job_from_queued_to_completed_without_being_loaded_again(visit: Visit, tmp_path: Path) -> None:
    job = enqueue(command=f"sh -c '{waits_for(tmp_path, 'go')}; echo the end'", name="nightly", actor="ann")
    page = visit(*ALL_AND_SECRETS)
    page.goto(url(job))
    expect(badge(page)).to_have_text("Queued")
    page.evaluate("window.neverLoadedAgain = true")
    with worker("--slots", "1", log=tmp_path / "log"):
        expect(badge(page)).to_have_text("Running")
        screenshot(page, "job-running")
        (tmp_path / "go").touch()
        expect(badge(page)).to_have_text("Completed")
    expect(page.locator("#cd-log")).to_contain_text("the end")
    expect(page.locator(".cd-present text")).to_have_text("Completed")
    expect(page.locator(".cd-timeline li")).to_have_count(3)
    expect(page.locator(".cd-explanation")).to_contain_text("ended well")
    expect(page.locator("tr#attempt-1 rect.cd-part-running")).to_have_count(1)
    assert page.evaluate("window.neverLoadedAgain")


@pytest.mark.shows("howto/dashboard.md#output")
def test_the_output_is_followed_paused_filtered_searched_and_downloaded(visit: Visit, tmp_path: Path) -> None:
    script = f"echo one; echo trouble >&2; {waits_for(tmp_path, '2')}; echo two; {waits_for(tmp_path, '3')}; echo three"
    job = enqueue(command=f"sh -c '{script}'")
    page = visit(*ALL_AND_SECRETS)
    with worker("--slots", "1", log=tmp_path / "log"):
        page.goto(url(job))
        log = page.locator("#cd-log")
        expect(log).to_contain_text("one")
        (tmp_path / "2").touch()
        expect(log).to_contain_text("two")
        follow = page.get_by_role("button", name="Follow", exact=True)
        follow.click()
        expect(follow).to_have_attribute("aria-pressed", "false")
        (tmp_path / "3").touch()
        expect(badge(page)).to_have_text("Completed")
        eventually(lambda: b"three" in job.output())
        assert "three" not in log.inner_text()
        follow.click()
        expect(log).to_contain_text("three")
    page.get_by_label("Stream").select_option("stderr")
    expect(page.locator("#cd-log .cd-stdout").first).to_be_hidden()
    expect(page.locator("#cd-log .cd-stderr")).to_have_text(re.compile("trouble"))
    page.get_by_label("Stream").select_option("")
    page.get_by_label("Find").fill("T")
    expect(page.locator("[data-log-found]")).to_have_text("3")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == job.output()


def test_a_running_job_is_cancelled_by_its_button_with_a_reason(visit: Visit, tmp_path: Path) -> None:
    job = enqueue(command="sleep 600", grace_seconds=1)
    page = visit(*ALL_AND_SECRETS)
    with worker("--slots", "1", log=tmp_path / "log"):
        page.goto(url(job))
        expect(badge(page)).to_have_text("Running")
        page.get_by_label("Reason").fill("took too long")
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(page.locator(".messagelist")).to_contain_text("Cancelled")
        expect(badge(page)).to_have_text("Cancelled")
        expect(page.locator("tr#attempt-1 td").nth(2)).not_to_be_empty()
    last = job.transitions.last()
    assert last is not None
    assert (last.to_status, last.actor, last.reason) == ("cancelled", "ann", "took too long")


def test_a_button_of_a_stale_page_changes_nothing_and_shows_the_current_status(visit: Visit) -> None:
    job = enqueue(command="true")
    # Without scripts a page stays as it was.
    page = visit(*ALL_AND_SECRETS, scripts=False)
    page.goto(url(job))
    cancel(job, actor="bob")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".messagelist .error")).to_contain_text("is Cancelled now")
    assert job.transitions.count() == 1


def test_a_page_without_scripts_shows_and_does_the_same(visit: Visit) -> None:
    job = enqueue(command="true", name="plain")
    page = visit(*ALL_AND_SECRETS, scripts=False)
    page.goto("/jobs/jobs/")
    page.get_by_role("link", name="plain").click()
    expect(badge(page)).to_have_text("Queued")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(badge(page)).to_have_text("Cancelled")
    job.refresh_from_db()
    assert job.status == "cancelled"


def test_an_unchanged_response_is_not_sent_again(visit: Visit) -> None:
    job = enqueue(command="true", name="unchanged")
    page = visit(*ALL_AND_SECRETS)
    page.goto("/jobs/jobs/")
    with page.expect_response(lambda answer: "live=1" in answer.url and answer.status == 304, timeout=WAIT):
        pass
    assert job.pk


@pytest.mark.shows("howto/dashboard.md#live")
def test_a_hidden_page_sends_no_requests(visit: Visit) -> None:
    page = visit(*ALL_AND_SECRETS)
    page.goto("/jobs/jobs/")
    expect(page.locator("[data-live-state]")).to_have_text("live")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {get: () => window.isHidden, configurable: true});"
        "window.isHidden = true; document.dispatchEvent(new Event('visibilitychange'))"
    )
    expect(page.locator("[data-live-state]")).to_have_text("paused")
    page.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("[data-live-state]")).to_have_text("live")
