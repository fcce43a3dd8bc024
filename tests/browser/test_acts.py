"""Acts on many jobs, permissions, the keyboard, and what a page lets in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from container_manager.models import ContainerJob
from container_manager.queue import enqueue, enqueue_many

from .conftest import ALL_AND_SECRETS, expect, screenshot

pytestmark = [pytest.mark.django_db(transaction=True)]
Visit = Callable[..., Any]
MANY = 10_000


@pytest.mark.shows("howto/dashboard.md#act-on-many-jobs")
def test_ten_thousand_matching_jobs_are_cancelled_with_progress_and_refusals(visit: Visit) -> None:
    enqueue_many(ContainerJob(command="true", queue="bulk") for _ in range(MANY))
    kept = enqueue(command="true", name="of another queue")
    for key in ContainerJob.objects.filter(queue="bulk").values_list("pk", flat=True)[:3]:
        job = ContainerJob.objects.get(pk=key)
        job.mark_as_running()
        job.mark_as_completed()
    page = visit(*ALL_AND_SECRETS)
    page.goto("/jobs/jobs/?q=queue:bulk")
    page.get_by_label("all that match the search").check()
    page.get_by_label("Reason").fill("wrong input")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("heading", name="Are you sure?")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    examined = page.locator("#cd-examined")
    expect(examined).not_to_have_text("0")
    screenshot(page, "act-on-many")
    expect(page.get_by_text("Finished.")).to_be_visible()
    expect(examined).to_have_text(str(MANY))
    expect(page.locator("#cd-changed")).to_have_text(str(MANY - 3))
    expect(page.locator("#cd-refused")).to_have_text("3")
    expect(page.get_by_text("It is completed now, which does not allow this.")).to_be_visible()
    assert ContainerJob.objects.filter(status="cancelled", status_changed_reason="wrong input").count() == MANY - 3
    kept.refresh_from_db()
    assert kept.status == "queued"


def test_selected_jobs_are_acted_on_and_stay_selected_while_the_list_changes(visit: Visit) -> None:
    jobs = [enqueue(command="true", name=f"job {number}") for number in range(3)]
    page = visit(*ALL_AND_SECRETS)
    page.goto("/jobs/jobs/")
    page.get_by_label("Select job 0").check()
    page.get_by_label("Select job 2").check()
    expect(page.locator("[data-selected]")).to_have_text("the 2 selected")
    enqueue(command="true", name="a newer one")
    expect(page.get_by_role("link", name="a newer one")).to_be_visible()
    expect(page.locator("[data-selected]")).to_have_text("the 2 selected")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("2 jobs changed.")
    assert [ContainerJob.objects.get(pk=job.pk).status for job in jobs] == ["cancelled", "queued", "cancelled"]


def test_a_user_who_may_only_view_sees_no_button_and_a_forged_post_is_forbidden(visit: Visit) -> None:
    job = enqueue(command="true", name="not mine")
    page = visit("view_containerjob", name="guest")
    page.goto("/jobs/jobs/")
    page.get_by_role("link", name="not mine").click()
    expect(page.locator("h1 .cd-badge")).to_have_text("Queued")
    assert page.locator("main button[type=submit]").count() == 0
    expect(page.get_by_text("You may not see the output of jobs.")).to_be_visible()
    forged = page.request.post(f"/jobs/jobs/{job.pk}/act/", form={"act": "cancel", "version": str(job.status_version)})
    assert forged.status == 403
    job.refresh_from_db()
    assert job.status == "queued"


@pytest.mark.shows("howto/dashboard.md#live")
def test_a_job_is_found_opened_and_cancelled_by_the_keyboard_alone(visit: Visit) -> None:
    for number in range(3):
        enqueue(command="true", name=f"number {number}")
    page = visit(*ALL_AND_SECRETS)
    page.goto("/jobs/jobs/")

    def tab_to(condition: str) -> None:
        """Press Tab until the focused element meets a condition on ``it``."""
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate(f"(it => {condition})(document.activeElement)"):
                return
        raise AssertionError(condition)

    tab_to("it.id === 'cd-q'")
    page.keyboard.type("number 1")
    page.keyboard.press("Enter")
    expect(page.locator("#cd-jobs tbody tr")).to_have_count(1)
    tab_to("it.textContent === 'number 1'")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("number 1")
    tab_to("it.textContent === 'Cancel'")
    page.keyboard.press("Space")
    expect(page.locator("h1 .cd-badge")).to_have_text("Cancelled")


def test_hostile_texts_execute_no_script(visit: Visit) -> None:
    hostile = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
    job = enqueue(
        command="true", name=hostile, environment={"A": hostile}, labels={"a": hostile}, queue=hostile[:60], actor="ann"
    )
    job.mark_as_running(reason=hostile)
    attempt = job.attempts.create(
        number=1, worker=hostile[:60], executor="default", launched_at=job.launched_at, message=hostile
    )
    attempt.logs.create(sequence=0, stream="stdout", data=hostile.encode())
    page = visit(*ALL_AND_SECRETS)
    for path in ("", "jobs/", f"jobs/{job.pk}/", "queues/", "workers/", "failures/"):
        page.goto(f"/jobs/{path}")
        if page.locator("[data-live-state]").count():
            expect(page.locator("[data-live-state]")).to_have_text("live")
        assert page.evaluate("window.hacked") is None
    page.goto(f"/jobs/jobs/{job.pk}/")
    page.get_by_role("button", name="From the beginning").click()
    attempt.logs.create(sequence=1, stream="stderr", data=b"<b>next</b>")
    expect(page.locator("#cd-log")).to_contain_text("<b>next</b>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#cd-log b, #cd-log img, main script").count() == 0


def test_inline_scripts_do_not_run_and_the_console_reports_them(visit: Visit) -> None:
    page = visit(*ALL_AND_SECRETS)
    page.goto("/jobs/jobs/")
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("""
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        """)
    assert page.evaluate("window.hacked") is None
    assert len(visit.problems) == 1  # type: ignore[attr-defined]
    visit.problems.clear()  # type: ignore[attr-defined]
