"""What axe-core finds on the pages, in both themes; each is kept as a picture for the docs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from container_manager.dashboard.models import BulkAct
from container_manager.models import ContainerJob, JobAttempt, JobLog, PausedQueue, Worker
from container_manager.queue import enqueue

from ..jobs import STATUSES, job_in
from ..span_counts import add_counts
from .axe import axe_source
from .conftest import ALL_AND_SECRETS, expect, screenshot

pytestmark = [pytest.mark.django_db(transaction=True)]
_RUN = """
axe => axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}).then(
    found => found.violations
        .filter(each => ["serious", "critical"].includes(each.impact))
        .map(each => `${each.id}: ${each.help}: ${each.nodes.map(node => node.html).slice(0, 3).join(" | ")}`))
"""


def populate() -> ContainerJob:
    """Make a site on which every page has something of all it can show; return the job with the richest page."""
    for status in STATUSES:
        for number in range(3):
            reason = "error" if status == "failed" else ""
            text = f"row {number} is wrong" if reason else ""
            job_in(status, name=f"{status} {number}", failure_reason=reason, last_error=text, labels={"team": "web"})
    now = timezone.now()
    Worker.objects.create(
        id="host-1", host="host", pid=7, slots=4, executors=["default"], lease_expires_at=now + timedelta(hours=1)
    )
    enqueue(command="true", queue="mail", executor="gpu")
    PausedQueue.objects.create(name="mail")
    job = enqueue(command="render --all", name="nightly report", queue="reports", environment={"A": "b"}, actor="ann")
    for number in (1, 2):
        job.mark_as_running(actor="host-1")
        attempt = JobAttempt.objects.create(
            job=job,
            number=number,
            worker="host-1",
            executor="default",
            launched_at=job.launched_at,
            peak_memory_bytes=1,
        )
        JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"page 1 of 20\n" * 5)
        JobLog.objects.create(attempt=attempt, sequence=1, stream="stderr", data=b"a warning\n")
        if number == 1:
            JobAttempt.objects.filter(pk=attempt.pk).update(finished_at=timezone.now(), reason="error", exit_code=3)
            job.mark_as_failed(should_retry=True, reason="error")
            job.mark_as_queued(reason="retry is due")
    minute = int(now.timestamp() // 60)
    for ago in range(2, 60):
        counts = {"completed": 5 + ago % 7, "failed": ago % 3, "wait_3": 4, "wait_6": 1, "run_5": 6, "run_8": 1}
        add_counts(minute - ago, "reports", **counts)
    return job


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_has_a_serious_accessibility_finding(visit: Callable[..., Any], theme: str) -> None:
    job, script = populate(), axe_source()
    bulk = BulkAct.objects.create(
        user="0",
        actor="ann",
        act="cancel",
        refused={"It is completed now.": 3},
        note="Stopped.",
        finished_at=timezone.now(),
    )
    page = visit(*ALL_AND_SECRETS, theme=theme)
    paths = {
        "overview": "", "jobs": "jobs/?q=status:failed", "job": f"jobs/{job.pk}/", "queues": "queues/",
        "workers": "workers/", "failures": "failures/", "progress": f"acts/{bulk.pk}/",
    }  # fmt: skip
    found = {}
    for name, path in paths.items():
        page.goto(f"/jobs/{path}")
        expect(page.locator("[data-live-state]")).to_have_text("live")
        screenshot(page, f"{name}-{theme}")
        # Not a script of the page, so the policy lets it run.
        page.evaluate(script)
        found[name] = page.evaluate(f"({_RUN})(window.axe)")
    assert found == {name: [] for name in paths}
