"""The admin can do what the map allows, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import trans_real

from container_manager.admin import ContainerJobAdmin
from container_manager.dashboard.access import Act
from container_manager.dashboard.job_acts import MOST_SELECTED
from container_manager.jobs.container_request import ContainerRequest
from container_manager.models import ContainerJob, FailureReason, JobAttempt, JobLog, PausedQueue, Worker

from .bulk_jobs import BulkJobs
from .dashboard_users import TEAM_RULE, user_who_may
from .jobs import STATUSES, job_in, journal_of, row_of

pytestmark = [pytest.mark.django_db, pytest.mark.usual_statements]
LIST = "admin:container_manager_containerjob_changelist"
CHANGE = "admin:container_manager_containerjob_change"
ADD = "admin:container_manager_containerjob_add"


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def form(**fields: object) -> dict[str, object]:
    """Return a change form's fields, with the formsets of its inlines."""
    base: dict[str, object] = {
        "name": "n", "command": "true", "environment": "{}", "secrets": "{}", "labels": "{}", "grace_seconds": 10,
        "executor": "default", "queue": "default", "priority": 50, "max_retries": 3, "unique_until": "finished",
    }  # fmt: skip
    for prefix in ("transitions", "attempts"):
        base.update({f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0})
    return {**base, **fields}


@pytest.mark.without_database
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("forged", ["completed", "queued", "bogus"])
def test_a_forged_post_changes_no_status(client: Client, status: str, forged: str) -> None:
    job = job_in(status)
    answer = client.post(reverse(CHANGE, args=[job.pk]), form(status=forged, attempt=9, worker="me", retry_count=7))
    assert answer.status_code == 302
    row = row_of(job)
    assert (row["status"], row["attempt"], row["worker"], row["retry_count"]) == (status, 0, "", 0)
    assert journal_of(job) == []


def test_a_job_added_by_form_records_its_creator(client: Client) -> None:
    answer = client.post(reverse(ADD), form(status="completed"))
    assert answer.status_code == 302
    job = ContainerJob.objects.get()
    assert (job.status, job.created_by) == ("pending", "root")


@pytest.mark.without_database
def test_no_form_says_which_function_of_the_project_is_run(client: Client) -> None:
    client.post(reverse(ADD), form(task="shop.tasks.refund", task_arguments="{}"))
    job = ContainerJob.objects.get()
    client.post(reverse(CHANGE, args=[job.pk]), form(task="shop.tasks.refund", task_arguments="{}"))
    job.refresh_from_db()
    assert (job.task, job.task_arguments) == ("", None)


def test_broken_quoting_is_an_error_at_the_command_field(client: Client) -> None:
    answer = client.post(reverse(ADD), form(command="echo 'oops"))
    assert answer.status_code == 200
    assert "quoting" in answer.content.decode()
    assert not ContainerJob.objects.exists()


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{"volumes": {"/etc": "/etc"}}', "&#x27;volumes&#x27; must be an object of the settings&#x27; volume names"),
        ('{"privileged": true}', "&#x27;privileged&#x27; is not known. Known: user, pids,"),
        ('{"network": "container:other"}', "&#x27;network&#x27; must be the name of a network"),
        ("[]", "It must be a JSON object, not list."),
        ("{", "Enter a valid JSON."),
    ],
)
def test_a_wrong_container_request_is_an_error_at_the_field(client: Client, value: str, said: str) -> None:
    answer = client.post(reverse(ADD), form(container=value))
    assert answer.status_code == 200
    assert "container" in answer.context["adminform"].form.errors
    assert said in answer.content.decode()
    assert not ContainerJob.objects.exists()


@pytest.mark.without_database
def test_form_errors_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    german = {
        "%(name)r must be %(expected)s, not %(value)s.": "%(name)r muss %(expected)s sein, nicht %(value)s.",
        "a positive number": "eine positive Zahl",
        "%(name)r cannot be the name of an environment variable.": "%(name)r ist kein Name einer Variablen.",
    }
    monkeypatch.setattr(trans_real.translation("de"), "_catalog", german)
    with translation.override("de"):
        with pytest.raises(ValidationError, match="'pids' muss eine positive Zahl sein, nicht 0"):
            ContainerJob(command="true", container={"pids": 0}).clean()
        with pytest.raises(ValidationError, match="'A=B' ist kein Name einer Variablen"):
            ContainerJob(command="true", environment={"A=B": "x"}).clean()


@pytest.mark.without_database
def test_the_form_lists_what_a_container_may_be_asked_for(client: Client) -> None:
    page = client.get(reverse(ADD)).content.decode()
    for entry in fields(ContainerRequest):
        assert f"{entry.name}: " in page
    client.post(reverse(ADD), form(container='{"user": "1000"}'))
    assert ContainerJob.objects.get().container == {"user": "1000"}


def test_an_action_moves_jobs_that_have_the_edge_and_reports_the_others(client: Client) -> None:
    waiting, done = job_in("queued"), job_in("completed")
    answer = client.post(
        reverse(LIST), {"action": "cancel_jobs", "_selected_action": [waiting.pk, done.pk]}, follow=True
    )
    text = answer.content.decode()
    assert "1 job changed." in text
    assert "1 job was left alone: It is completed now, which does not allow this." in text
    assert (row_of(waiting)["status"], row_of(done)["status"]) == ("cancelled", "completed")
    assert waiting.transitions.get().actor == "root"


def test_an_action_kills_the_running_attempts_of_the_selected_jobs_only(client: Client) -> None:
    jobs = [job_in("running", attempt=1) for _ in range(3)]
    for job in jobs:
        job.attempts.create(number=1, worker="w", executor="default", launched_at=job.launched_at)
    jobs[0].mark_as_cancelled()
    chosen = {"action": "kill_jobs", "_selected_action": [job.pk for job in jobs[:2]]}
    assert "2 jobs changed." in client.post(reverse(LIST), chosen, follow=True).content.decode()
    assert "2 jobs were left alone: It is cancelled" in client.post(reverse(LIST), chosen, follow=True).content.decode()
    assert [job.attempts.get().kill_requested_at is not None for job in jobs] == [True, True, False]
    assert row_of(jobs[2])["status"] == "running"


def test_an_action_runs_every_finished_job_again(client: Client) -> None:
    jobs = [job_in(status) for status in ("failed", "completed", "cancelled")]
    chosen = {"action": "retry_jobs", "_selected_action": [job.pk for job in jobs]}
    assert "3 jobs changed." in client.post(reverse(LIST), chosen, follow=True).content.decode()
    assert row_of(jobs[0])["status"] == "queued"
    again = ContainerJob.objects.filter(status="queued", created_by="root")
    assert {job.origin for job in again} == {jobs[1].pk, jobs[2].pk}


@pytest.mark.without_database
def test_an_unknown_executor_is_an_error_at_its_field(client: Client) -> None:
    answer = client.post(reverse(ADD), form(executor="gpuu"))
    assert answer.context["adminform"].form.errors["executor"] == ["There is no executor gpuu. Known: default."]
    lease = timezone.now() + timedelta(minutes=1)
    Worker.objects.create(id="w", host="h", pid=1, executors=["gpuu"], lease_expires_at=lease)
    assert client.post(reverse(ADD), form(executor="gpuu")).status_code == 302


@pytest.mark.without_database
@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_error_of_a_read_only_field_is_shown_above_the_form(client: Client, status: str) -> None:
    job = job_in(status, labels={"team": 5})
    answer = client.post(reverse(CHANGE, args=[job.pk]), form())
    assert answer.status_code == 200
    assert answer.context["adminform"].form.non_field_errors() == ["labels: A JSON object of strings is needed."]


@pytest.mark.shows("howto/docker.md#let-others-submit-jobs")
def test_view_permission_allows_no_transition() -> None:
    viewer = User.objects.create_user("viewer", is_staff=True)
    create_permissions(apps.get_app_config("container_manager"), verbosity=0)
    viewer.user_permissions.add(Permission.objects.get(codename="view_containerjob"))
    client, job = Client(), job_in("queued")
    client.force_login(viewer)
    assert client.get(reverse(CHANGE, args=[job.pk])).status_code == 200
    for action in ContainerJobAdmin.actions:
        client.post(reverse(LIST), {"action": action, "_selected_action": [job.pk]})
    assert client.post(reverse(CHANGE, args=[job.pk]), form(name="other")).status_code == 403
    assert row_of(job)["status"] == "queued"
    assert row_of(job)["name"] == ""


def test_the_page_of_a_job_shows_its_history(client: Client) -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice", reason="because it is Monday")
    page = client.get(reverse(CHANGE, args=[job.pk])).content.decode()
    assert "because it is Monday" in page
    assert client.get(reverse(LIST)).status_code == 200


def test_the_page_of_a_job_shows_first_what_it_runs_and_the_end_of_its_output(client: Client) -> None:
    job = job_in("running", name="report", attempt=1)
    attempt = JobAttempt.objects.create(job=job, number=1, worker="w", executor="default", launched_at=timezone.now())
    JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"first" + b"." * 20_000 + b"<last>")
    page = client.get(reverse(CHANGE, args=[job.pk])).content.decode()
    assert "&lt;last&gt;</pre>" in page
    assert "first" not in page
    assert page.index("field-name") < page.index("field-command") < page.index("field-queued_at")


@pytest.mark.shows("howto/queue.md#see-why-a-job-waits-or-failed")
def test_the_page_of_a_job_explains_it_without_letting_a_message_be_markup(client: Client) -> None:
    job = job_in("failed", failure_reason="start", last_error="<script>alert(1)</script>")
    page = client.get(reverse(CHANGE, args=[job.pk])).content.decode()
    assert "It could not be started.<ul><li>Its last error: &lt;script&gt;" in page
    assert "<script>alert" not in page


@pytest.mark.shows("howto/queue.md#find-a-job")
def test_the_search_finds_a_job_by_the_beginning_of_its_id_and_by_its_name(client: Client) -> None:
    jobs = [job_in("completed", name=name) for name in ("report", "another")]
    for text, found in ((str(jobs[0].pk)[:18], jobs[:1]), ("another", jobs[1:]), ("anoth", []), (" ", jobs)):
        answer = client.get(reverse(LIST), {"q": text})
        assert sorted(answer.context["cl"].result_list, key=lambda job: job.pk) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "edcba"),
        ({"status": "failed"}, "b"),
        ({"queue": "reports"}, "da"),
        ({"executor": "gpu"}, "c"),
        ({"failure_reason": "oom"}, "b"),
        ({"queue": "reports", "status": "queued"}, "a"),
        ({"worker": "w1"}, "e"),
        ({"o": "2"}, "edcba"),
    ],
)
def test_a_filter_of_the_list_finds_its_jobs_and_no_others(client: Client, query: dict[str, str], found: str) -> None:
    job_in("queued", name="a", queue="reports")
    job_in("failed", name="b", failure_reason="oom")
    job_in("completed", name="c", executor="gpu")
    job_in("pending", name="d", queue="reports")
    job_in("running", name="e", worker="w1")
    shown = client.get(reverse(LIST), query).context["cl"]
    assert "".join(job.name for job in shown.result_list) == found
    assert str(shown.count) == str(len(found))


@pytest.mark.without_database
@pytest.mark.parametrize("query", [{"status": "bogus"}, {"p": "2"}, {"p": "n0.1"}, {"nothing": "1"}])
def test_an_unknown_query_parameter_leads_to_the_whole_list(client: Client, query: dict[str, str]) -> None:
    answer = client.get(reverse(LIST), query)
    assert answer.headers["Location"] == f"{reverse(LIST)}?e=1"


def test_the_list_is_paged_from_the_newest_to_the_oldest_and_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContainerJobAdmin, "list_per_page", 2)
    for number in range(5):
        job_in("queued", name=str(number))
    seen, query, newer = list[str](), "?status=queued", ""
    while query:
        shown = client.get(reverse(LIST) + query).context["cl"]
        seen.append("".join(job.name for job in shown.result_list))
        query, newer = shown.older(), shown.newer()
    assert seen == ["43", "21", "0"]
    shown = client.get(reverse(LIST) + newer).context["cl"]
    assert "".join(job.name for job in shown.result_list) == "21"


def test_an_action_on_all_matching_jobs_is_offered_only_for_few(client: Client) -> None:
    BulkJobs().add("queued", MOST_SELECTED + 1)
    job = job_in("pending")
    chosen = {"action": "cancel_jobs", "_selected_action": ["any"], "select_across": "1"}
    answer = client.post(reverse(LIST), chosen, follow=True)
    assert "More than 1000 jobs may match." in answer.content.decode()
    assert not ContainerJob.objects.filter(status="cancelled").exists()
    answer = client.post(reverse(LIST) + "?status=pending", chosen, follow=True)
    assert "1 job changed." in answer.content.decode()
    assert ContainerJob.objects.get(status="cancelled") == job


def test_a_filter_by_an_unlisted_queue_is_applied(client: Client) -> None:
    job_in("queued"), job_in("queued", queue="reports")
    url = reverse(LIST) + "?queue=reports"
    assert [job.queue for job in client.get(url).context["cl"].result_list] == ["reports"]
    client.post(url, {"action": "cancel_jobs", "_selected_action": ["any"], "select_across": "1"})
    assert ContainerJob.objects.get(status="cancelled").queue == "reports"


RECORDS = ("jobattempt", "jobtransition", "worker", "pausedqueue")


@pytest.fixture
def ended_job() -> ContainerJob:
    """A job with an attempt, in a database with a worker and a paused queue."""
    job = job_in("running")
    JobAttempt.objects.create(job=job, number=1, worker="w", launched_at=timezone.now(), message="its last words")
    job.mark_as_failed(FailureReason.ERROR)
    Worker.objects.create(id="w", host="h", pid=1, lease_expires_at=timezone.now())
    PausedQueue.objects.create(name="q")
    return job


@pytest.mark.parametrize("model", RECORDS)
def test_system_tables_are_shown_read_only(client: Client, ended_job: ContainerJob, model: str) -> None:
    (row, *_) = apps.get_model("container_manager", model).objects.all()
    names = {name: f"admin:container_manager_{model}_{name}" for name in ("changelist", "add", "change", "delete")}
    shown = client.get(reverse(names["changelist"])).content.decode()
    page = reverse(names["change"], args=[row.pk])
    assert page in shown
    answer = client.get(page)
    assert answer.status_code == 200
    assert not answer.context["has_change_permission"]
    for url in (reverse(names["add"]), page, reverse(names["delete"], args=[row.pk])):
        assert client.post(url, {"post": "yes"}).status_code == 403
    assert apps.get_model("container_manager", model).objects.filter(pk=row.pk).exists()


@pytest.mark.parametrize("model", ["jobattempt", "jobtransition"])
def test_attempts_and_transitions_are_found_by_the_id_and_the_name_of_their_job(client: Client, model: str) -> None:
    now = timezone.now()
    wanted, other = (job_in("running", name=name) for name in ("wanted", "other"))
    for job in (wanted, other):
        JobAttempt.objects.create(job=job, number=1, worker="w", launched_at=now)
        job.mark_as_failed(FailureReason.ERROR)
    url = reverse(f"admin:container_manager_{model}_changelist")
    for text in ("wanted", str(wanted.pk)):
        page = client.get(url, {"q": text}).content.decode()
        assert str(wanted.pk) in page
        assert str(other.pk) not in page
    assert "0 " in client.get(url, {"q": "no such name"}).content.decode()


@pytest.mark.parametrize("model", ["jobattempt", "jobtransition"])
def test_attempts_and_transitions_are_shown_only_to_users_who_may_see_the_jobs(
    settings: Any, ended_job: ContainerJob, model: str
) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    user = user_who_may(Act.VIEW)
    user.is_staff = True
    user.save()
    user.user_permissions.add(Permission.objects.get(codename=f"view_{model}"))
    client = Client()
    client.force_login(user)
    (row, *_) = apps.get_model("container_manager", model).objects.all()
    url = reverse(f"admin:container_manager_{model}_changelist")
    page = reverse(f"admin:container_manager_{model}_change", args=[row.pk])
    assert str(ended_job.pk) not in client.get(url).content.decode()
    assert client.get(page).status_code == 302
    ContainerJob.objects.filter(pk=ended_job.pk).update(labels={"team": user.get_username()})
    assert str(ended_job.pk) in client.get(url).content.decode()
    assert client.get(page).status_code == 200
    # What an error quotes is for who may see output.
    assert "its last words" not in client.get(page).content.decode()


def test_a_job_is_deleted_with_its_attempts_and_its_journal(client: Client, ended_job: ContainerJob) -> None:
    url = reverse("admin:container_manager_containerjob_delete", args=[ended_job.pk])
    assert client.post(url, {"post": "yes"}).status_code == 302
    assert not ContainerJob.objects.exists()
    assert not JobAttempt.objects.exists()


@pytest.mark.parametrize("model", RECORDS)
def test_lists_of_system_tables_run_no_count_query(
    client: Client, ended_job: ContainerJob, model: str, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    with django_assert_max_num_queries(6) as queries:
        assert client.get(reverse(f"admin:container_manager_{model}_changelist")).status_code == 200
    counts = [query["sql"] for query in queries.captured_queries if "COUNT(" in query["sql"]]
    assert counts
    assert all("LIMIT" in sql for sql in counts)
