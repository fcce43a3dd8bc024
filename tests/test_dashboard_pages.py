"""The dashboard's pages: who sees and does what, what they cost, and that no text of a job is more than text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from container_manager.dashboard.access import Act
from container_manager.dashboard.models import BulkAct
from container_manager.models import ContainerJob, JobAttempt, JobLog, PausedQueue, Worker
from container_manager.queue import cancel, enqueue

from .dashboard_users import TEAM_RULE, user_who_may
from .jobs import STATUSES, THEN, job_in, row_of
from .span_counts import add_counts

pytestmark = [pytest.mark.django_db, pytest.mark.usual_statements]
MOST_QUERIES = 12
NAMES = ("overview", "jobs", "queues", "workers", "failures")
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e"


def url(name: str, *arguments: object, **query: str) -> str:
    return reverse(f"container_manager_dashboard:{name}", args=arguments, query=query or None)


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def busy(**fields: Any) -> ContainerJob:
    """Make a running job with an attempt, output, and all else that a page can show, beside jobs in every status."""
    for status in STATUSES:
        job_in(status, name=f"one {status}")
    job = enqueue(command="true", environment={"TOKEN": "hunter2"}, actor="ann", **fields)
    job.mark_as_running(actor="w1")
    later = timezone.now() + timedelta(hours=1)
    Worker.objects.create(
        id="w1", host="h", pid=1, executors=["default"], engines={"default": "e1"}, lease_expires_at=later
    )
    attempt = JobAttempt.objects.create(
        job=job, number=1, worker="w1", executor="default", engine="e2", launched_at=timezone.now()
    )
    JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"hello\n")
    PausedQueue.objects.create(name="mail")
    # As the maintainer has counted it: MariaDB takes a statement more for a queue that the statistics do not know.
    add_counts(0, "default", kept=False)
    return job


@pytest.mark.parametrize("name", [*NAMES, "job", "bulk_act"])
def test_a_page_takes_at_most_twelve_queries(name: str) -> None:
    job = busy(name="nightly")
    user = user_who_may(*Act)
    bulk = BulkAct.objects.create(user=str(user.pk), actor="ada", act="cancel")
    arguments = {"job": [job.pk], "bulk_act": [bulk.pk]}.get(name, [])
    client = client_of(user)
    for query in ({}, {"live": "1"}):
        with CaptureQueriesContext(connection) as queries:
            assert client.get(url(name, *arguments, **query)).status_code == 200
        assert len(queries) <= MOST_QUERIES, "\n".join(query["sql"] for query in queries)


@pytest.mark.parametrize("status", STATUSES)
def test_the_page_of_a_job_takes_at_most_twelve_queries_in_every_status(status: str) -> None:
    busy()
    job = job_in(status, attempt=1, failure_reason="error" if status in ("failed", "retrying") else "")
    is_open = status == "running"
    attempt = JobAttempt.objects.create(
        job=job, number=1, worker="w1", executor="default", launched_at=THEN, finished_at=None if is_open else THEN
    )
    JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"hello\n")
    client = client_of(user_who_may(*Act))
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url("job", job.pk)).status_code == 200
    assert len(queries) <= MOST_QUERIES, "\n".join(query["sql"] for query in queries)


@pytest.mark.without_database
@pytest.mark.shows("howto/dashboard.md#who-may-do-what")
def test_without_a_login_every_page_leads_to_the_login_and_without_permission_it_is_forbidden() -> None:
    job, nobody = busy(), client_of(user_who_may())
    for path in (*map(url, NAMES), url("job", job.pk), url("log", job.pk), url("log_file", job.pk, 1)):
        answer = Client().get(path)
        assert (answer.status_code, answer.headers.get("Location", "").partition("?")[0]) == (302, "/admin/login/")
        assert Client().get(path, {"live": "1"}).status_code == 403
        assert nobody.get(path).status_code == 403


def posts(job: ContainerJob) -> Mapping[str, tuple[str, dict[str, str], Act]]:
    """Return every form that a page can send: its address, its fields, and the permission that it needs."""
    one, some = url("act_on_job", job.pk), url("act_on_jobs")
    permissions = {"queue": Act.SUBMIT, "retry": Act.RETRY, "cancel": Act.CANCEL, "kill": Act.CANCEL}
    version, key = str(job.status_version), str(job.pk)
    found = {f"{act} one": (one, {"act": act, "version": version}, need) for act, need in permissions.items()}
    found |= {f"{act} some": (some, {"act": act, "job": key}, need) for act, need in permissions.items()}
    everything = {"scope": "all", "sure": "1"}
    found |= {f"{act} all": (some, {"act": act, **everything}, need) for act, need in permissions.items()}
    found["pause"] = (url("pause"), {"pause": "reports"}, Act.PAUSE_QUEUES)
    found["resume"] = (url("pause"), {"resume": "reports"}, Act.PAUSE_QUEUES)
    return found


@pytest.mark.without_database
@pytest.mark.shows("howto/dashboard.md#who-may-do-what")
def test_a_forged_post_is_forbidden_to_whoever_has_all_permissions_but_the_one_it_needs() -> None:
    job = job_in("failed")
    before = row_of(job)
    clients = {act: client_of(user_who_may(*(a for a in Act if a != act), name=f"no {act}")) for act in Act}
    for what, (path, fields, needed) in posts(job).items():
        assert clients[needed].post(path, fields).status_code == 403, what
        assert clients[Act.VIEW].post(path, fields).status_code == 403, what
    assert row_of(job) == before
    assert not BulkAct.objects.exists()
    assert not PausedQueue.objects.exists()


@pytest.mark.without_database
def test_a_post_needs_the_csrf_token(settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware", *settings.MIDDLEWARE]
    job, client = job_in("failed"), Client(enforce_csrf_checks=True)
    client.force_login(user_who_may(*Act))
    for what, (path, fields, _needed) in posts(job).items():
        assert client.post(path, fields).status_code == 403, what


@pytest.mark.without_database
@pytest.mark.parametrize("act", [Act.CANCEL, Act.RETRY, Act.PAUSE_QUEUES])
def test_a_button_is_shown_to_those_only_who_may_press_it(act: Act) -> None:
    job, button = job_in("failed"), {Act.CANCEL: "Cancel", Act.RETRY: "Run again", Act.PAUSE_QUEUES: "Pause"}[act]
    enqueue(command="true", queue="reports")
    names = ["queues"] if act == Act.PAUSE_QUEUES else ["jobs", "job", "failures"]
    for user, is_shown in ((user_who_may(Act.VIEW, act), True), (user_who_may(Act.VIEW, name="guest"), False)):
        for name in names:
            text = client_of(user).get(url(name, *([job.pk] if name == "job" else []))).content.decode()
            assert (f">{button}<" in text) == is_shown, (name, is_shown)


@pytest.mark.without_database
def test_in_read_only_mode_no_page_has_a_button_and_no_form_changes_anything(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"READ_ONLY": True}
    job, client = job_in("failed"), client_of(User.objects.create_superuser("root"))
    for what, (path, fields, _needed) in posts(job).items():
        assert client.post(path, fields).status_code == 403, what
    for path in (url("job", job.pk), url("jobs"), url("queues"), url("failures")):
        assert '<button type="submit" form=' not in client.get(path).content.decode()


@pytest.mark.shows("howto/dashboard.md#who-may-do-what")
def test_a_user_who_may_see_the_jobs_of_a_team_finds_no_trace_of_others(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    other, mine = busy(name="of others"), enqueue(name="of mine", command="true", labels={"team": "ada"})
    client = client_of(user_who_may(*Act))
    assert client.get(url("job", mine.pk)).status_code == 200
    for path in (url("job", other.pk), url("log", other.pk), url("log_file", other.pk, 1)):
        assert client.get(path).status_code == 404
    assert client.post(url("act_on_job", other.pk), {"act": "cancel", "version": "1"}).status_code == 404
    for name in NAMES:
        assert "of others" not in client.get(url(name)).content.decode()
    assert "a job that you may not see" in client.get(url("workers")).content.decode()


@pytest.mark.shows("howto/dashboard.md#who-may-do-what")
def test_environment_and_output_are_shown_to_those_only_who_may_see_them() -> None:
    job = busy(secrets={}, name="nightly")
    ContainerJob.objects.filter(pk=job.pk).update(
        secrets={"KEY": "file:mail-key"}, secret_files={"f": "file:other-key"}
    )
    path = url("job", job.pk)
    shown = client_of(user_who_may(*Act)).get(path).content.decode()
    assert "hunter2" in shown
    assert "hello" in shown
    hidden = client_of(user_who_may(Act.VIEW, name="guest")).get(path).content.decode()
    assert "hunter2" not in hidden
    assert "hello" not in hidden
    assert "1 variable, hidden" in hidden
    for text in (shown, hidden):
        assert "mail-key" not in text
        assert "other-key" not in text
    guest = client_of(User.objects.get(username="guest"))
    assert guest.get(url("log", job.pk)).status_code == 403
    assert guest.get(url("log_file", job.pk, 1)).status_code == 403


def hostile_job() -> ContainerJob:
    """Return a job all of whose texts are hostile, those too that no form takes."""
    job = busy(name="x")
    fields = (
        "name",
        "command",
        "last_error",
        "queue",
        "executor",
        "worker",
        "created_by",
        "working_directory",
        "image",
    )
    ContainerJob.objects.filter(pk=job.pk).update(
        **dict.fromkeys(fields, HOSTILE[:60]),
        labels={HOSTILE: HOSTILE},
        environment={HOSTILE: HOSTILE},
        secrets={HOSTILE: "env:X"},
    )
    JobAttempt.objects.filter(job=job).update(message=HOSTILE, waiting_for=HOSTILE, worker=HOSTILE[:60])
    JobLog.objects.filter(attempt__job=job).update(data=HOSTILE.encode())
    job.refresh_from_db()
    job.mark_as_failed(reason="x")
    job.transitions.update(reason=HOSTILE, actor=HOSTILE)
    return job


@pytest.mark.without_database
@pytest.mark.parametrize("name", [*NAMES, "job"])
def test_hostile_texts_are_shown_as_text_and_nothing_in_a_page_is_inline(name: str) -> None:
    job = hostile_job()
    answer = client_of(user_who_may(*Act)).get(url(name, *([job.pk] if name == "job" else [])))
    text = answer.content.decode()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    # What a button sends is not shown.
    assert "\u202e" not in re.sub(r'value="[^"]*"', "", text)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    # What the policy forbids a page does not try.
    assert not re.search(
        r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=(?=[\"'])", text.replace("&#x27;", "").replace("&quot;", "")
    )


@pytest.mark.shows("howto/dashboard.md#live")
def test_only_the_regions_that_have_changed_are_sent_again() -> None:
    job, client = enqueue(command="true"), client_of(user_who_may(*Act))
    first = client.get(url("job", job.pk, live="1"))
    assert set(first.json()["regions"]) == {"header", "progress", "explanation", "picture", "timeline", "attempts"}
    again = client.get(url("job", job.pk, live="1"), headers={"If-None-Match": f"W/{first['ETag']}"})
    assert again.status_code == 304 or set(again.json()["regions"]) == {"explanation"}
    cancel(job, actor="bob")
    changed = client.get(url("job", job.pk, live="1"), headers={"If-None-Match": first["ETag"]})
    assert set(changed.json()["regions"]) == {"header", "explanation", "picture", "timeline"}
    for odd in ("x", '"x"', '"a-b"', "*"):
        assert len(client.get(url("job", job.pk, live="1"), headers={"If-None-Match": odd}).json()["regions"]) == 6


def test_a_form_of_a_page_that_is_older_than_the_job_changes_nothing() -> None:
    job, client = job_in("failed"), client_of(user_who_may(*Act))
    stale = {"act": "cancel", "version": job.status_version}
    job.transition_to("retrying", actor="bob")
    answer = client.post(url("act_on_job", job.pk), stale, follow=True)
    assert "is Retrying now" in answer.content.decode()
    job.refresh_from_db()
    assert job.status == "retrying"


@pytest.mark.without_database
@pytest.mark.parametrize(
    "fields", [{}, {"act": "explode", "version": "0"}, {"act": "cancel"}, {"act": "cancel", "version": "x"}]
)
def test_a_form_that_no_page_sends_is_a_bad_request(fields: dict[str, str]) -> None:
    client = client_of(user_who_may(*Act))
    assert client.post(url("act_on_job", job_in("queued").pk), fields).status_code == 400
    assert client.post(url("act_on_jobs"), {**fields, "act": "explode"}).status_code == 400
    assert client.post(url("act_on_jobs"), {"act": "cancel", "job": "x"}).status_code == 400
    assert client.get(url("act_on_jobs")).status_code == 405


@pytest.mark.without_database
@pytest.mark.parametrize("query", [{"q": "bogus:1"}, {"q": 'name:"x'}, {"cursor": "x"}, {"q": "x" * 2000}])
def test_an_invalid_search_is_answered_with_an_explanation(query: dict[str, str]) -> None:
    job_in("queued", name="a job")
    answer = client_of(user_who_may(*Act)).get(url("jobs"), query)
    assert answer.status_code == 200
    assert 'role="alert"' in answer.content.decode()


def test_the_page_of_a_task_names_the_function_and_shows_its_arguments_as_json() -> None:
    arguments = {"args": [None, "é"], "kwargs": {"width": 800}}
    job = enqueue(command="container run-task", task="shop.tasks.resize", task_arguments=arguments)
    page = client_of(user_who_may(*Act)).get(url("job", job.pk)).content.decode()
    assert "It calls the task shop.tasks.resize." in page
    assert "{&quot;args&quot;: [null, &quot;é&quot;], &quot;kwargs&quot;: {&quot;width&quot;: 800}}" in page


@pytest.mark.without_database
@pytest.mark.shows("howto/dashboard.md#output")
def test_output_has_no_escape_sequences_on_the_page_and_is_byte_for_byte_in_the_download() -> None:
    job = busy(name="nightly")
    attempt, raw = job.attempts.get(), "\x1b[31mrot\x1b[0m \x1b]0;title\x07 Zoë\r\n\x00".encode()
    middle = raw.index("ë".encode()) + 1
    JobLog.objects.filter(attempt=attempt).update(data=raw[:middle])
    JobLog.objects.create(attempt=attempt, sequence=1, stream="stdout", data=raw[middle:] + b"\xff")
    JobLog.objects.create(attempt=attempt, sequence=2, stream="stderr", data=b"oops")
    client = client_of(user_who_may(*Act))
    answer = client.get(url("log", job.pk)).json()
    assert "".join(part["text"] for part in answer["parts"]) == "rot \\x1b]0;title\\x07 Zoë\n\\x00\ufffdoops"
    assert (answer["attempt"], answer["more"], answer["over"]) == (1, False, False)
    assert [part["sequence"] for part in client.get(url("log", job.pk, after="1")).json()["parts"]] == [2]
    download = client.get(url("log_file", job.pk, 1))
    assert b"".join(download) == raw + b"\xffoops"
    assert download["Content-Disposition"].startswith("attachment")
    assert b"".join(client.get(url("log_file", job.pk, 1, stream="stderr"))) == b"oops"
    assert client.get(url("log_file", job.pk, 2)).status_code == 404
    assert client.get(url("log", job.pk, after="x")).status_code == 400


def test_failures_of_one_kind_are_grouped_and_retried_together() -> None:
    client = client_of(user_who_may(*Act))
    for number in range(3):
        job_in("failed", failure_reason="error", exit_code=3, last_error=f"row {number} of '/tmp/{number}' is wrong")
    other = job_in("failed", failure_reason="oom", last_error="over 10 MiB")
    text = client.get(url("failures")).content.decode()
    assert "Non-zero exit code, exit 3</h2>" in text
    assert "row … of … is wrong" in text
    group = re.search(r'name="group" value="(retry [^"]+)"', text)
    assert group is not None
    client.post(url("act_on_jobs"), {"group": group[1], "q": "status:failed", "reason": "fixed"})
    assert ContainerJob.objects.filter(status="queued").count() == 3
    other.refresh_from_db()
    assert other.status == "failed"


def test_a_queue_is_paused_and_resumed_by_its_button() -> None:
    client = client_of(user_who_may(*Act))
    enqueue(command="true", queue="reports")
    client.post(url("pause"), {"pause": "reports"})
    assert PausedQueue.objects.get().paused_by == "ada"
    assert "Resume" in client.get(url("queues")).content.decode()
    client.post(url("pause"), {"resume": "reports"})
    assert not PausedQueue.objects.exists()


@pytest.mark.without_database
def test_the_admin_leads_to_the_dashboard() -> None:
    job, client = job_in("queued"), client_of(User.objects.create_superuser("root"))
    listed = client.get(reverse("admin:container_manager_containerjob_changelist")).content.decode()
    assert f'href="{url("jobs")}"' in listed
    shown = client.get(reverse("admin:container_manager_containerjob_change", args=[job.pk])).content.decode()
    assert url("job", job.pk) in shown
