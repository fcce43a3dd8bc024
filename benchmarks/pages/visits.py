"""What is looked at: pages of the dashboard and lists of the API, by name, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from container_manager.dashboard.search import JobSearch, Page, parse
from container_manager.models import ContainerJob

# By what is searched for; the job list and the API's are the same search.
SEARCHES = {
    "all": "",
    "failed": "status:failed",
    "completed": "status:completed",
    "queued": "status:queued",
    "running": "status:running",
    "pending": "status:pending",
    "retrying": "status:retrying",
    "two statuses": "status:failed,cancelled",
    "a queue": "queue:q7",
    "a queue's failed": "status:failed queue:q7",
    "an executor": "executor:default",
    "a worker": "worker:w1",
    "a reason": "reason:error",
    "failed by a reason": "status:failed reason:error",
    "a label": "label.team:team7",
    "a label that no job has": "label.team:none",
    "a name": "name:nightly-123",
    "the beginning of names": "name:nightly-1234*",
    "a word": "nightly-1234",
    "created lately": "created-after:2h",
    "created before": "created-before:15d",
}
_DEEP = {"all": "a deep page", "failed": "a deep page of failed", "a queue": "a deep page of a queue"}
_DEEP_PAGES = 20


class Visitor:
    """A user who may see all, and what there is to look at."""

    def __init__(self) -> None:
        self._client = Client()
        self._client.force_login(User.objects.create_superuser("visitor"))
        self._urls = _urls()

    def names(self) -> list[str]:
        return list(self._urls)

    def queries(self, name: str) -> int:
        """Return how many queries a visit takes, with those of the session and the user."""
        with CaptureQueriesContext(connection) as queries:
            self._get(name)
        return len(queries)

    def seconds(self, name: str) -> float:
        """Return how long the server is at work, from the request to the answer."""
        start = time.perf_counter()
        self._get(name)
        return time.perf_counter() - start

    def _get(self, name: str) -> None:
        status = self._client.get(self._urls[name]).status_code
        assert status == 200, f"{self._urls[name]}: {status}"


def _urls() -> Mapping[str, str]:
    job = ContainerJob.objects.filter(status="failed").order_by("-status_changed_at", "-id")[0].pk
    urls = {
        "overview": "/jobs/",
        "overview of a week": "/jobs/?span=7d",
        "queues": "/jobs/queues/",
        "workers": "/jobs/workers/",
        "failures": "/jobs/failures/",
        "a job": f"/jobs/jobs/{job}/",
        "a job's log": f"/jobs/jobs/{job}/log/",
    }
    for name, text in {**SEARCHES, "an id": f"id:{job.hex[:20]}"}.items():
        urls[f"jobs: {name}"] = f"/jobs/jobs/?{urlencode({'q': text})}"
        if name in _DEEP:
            cursor = _deep_cursor(text)
            urls[f"jobs: {_DEEP[name]}"] = f"/jobs/jobs/?{urlencode({'q': text, 'cursor': cursor})}"
    for name in ("jobs", "jobs/count", "queues", "workers", f"jobs/{job}"):
        urls[f"API: {name.replace(str(job), 'ID')}"] = f"/jobs/api/v1/{name}"
    return urls


def _deep_cursor(text: str) -> str:
    """Return the cursor of a page far down: half a month back, or twenty pages where the order is another."""
    jobs = ContainerJob.objects.all()
    if not text:
        # The same place in the same order.
        return JobSearch(jobs, parse("created-before:15d")).page().next
    found = Page()
    for _ in range(_DEEP_PAGES):
        found = JobSearch(jobs, parse(text)).page(found.next)
    return found.next
