"""Who may see and do what: permissions, the project's rule, and that the admin keeps to both."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.checks import run_checks
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from container_manager.dashboard.access import Act, can_see, may, require, visible_jobs
from container_manager.models import JobAttempt, JobLog

from .dashboard_users import TEAM_RULE, user_who_may
from .jobs import THEN, job_in, row_of

pytestmark = [pytest.mark.django_db, pytest.mark.usual_statements]
LIST = "admin:container_manager_containerjob_changelist"
CHANGE = "admin:container_manager_containerjob_change"


@pytest.mark.without_database
@pytest.mark.shows("howto/permissions.md#give-permissions")
@pytest.mark.parametrize("act", Act)
def test_each_act_needs_its_own_permission_and_no_other(act: Act) -> None:
    job = job_in("queued")
    assert not may(AnonymousUser(), act)
    assert not may(user_who_may(*(each for each in Act if each != act), name="others"), act)
    user = user_who_may(act, name="one")
    assert may(user, act)
    # On a job it is seen too.
    assert may(user, act, job) == (act == Act.VIEW)
    with pytest.raises(PermissionDenied, match=act.permission):
        require(User.objects.create_user("nobody"), act)


def test_no_jobs_are_visible_without_the_permission_to_view(settings: Any) -> None:
    mine, other = job_in("queued", labels={"team": "ada"}), job_in("queued", labels={"team": "bob"})
    user = user_who_may(Act.VIEW)
    assert set(visible_jobs(user)) == {mine, other}
    assert not visible_jobs(user_who_may(Act.CANCEL, name="blind")).exists()
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    assert list(visible_jobs(user)) == [mine]
    assert (can_see(user, mine), can_see(user, other)) == (True, False)


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"VISIBLE_JOBS": "nowhere.at_all"}, "E013"),
        ({"VISIBLE_JOBS": "tests.dashboard_users.missing"}, "E013"),
        ({"VISIBLE_JOBS": lambda user, jobs: jobs}, "E010"),
        ({"VISIBLE_JOBS": "visible"}, "E010"),
        ({"READ_ONLY": "yes"}, "E010"),
    ],
)
def test_a_wrong_setting_of_access_is_an_error_of_the_checks(entries: Any, code: str, settings: Any) -> None:
    settings.CONTAINER_MANAGER = entries
    assert [message.id for message in run_checks(databases=["default"])] == [f"container_manager.{code}"]


def staff(*acts: Act, name: str = "ada") -> Client:
    user = user_who_may(*acts, name=name)
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def test_the_admin_shows_environment_and_output_only_to_those_who_may_see_them() -> None:
    job = job_in("failed", attempt=1, environment={"KEY": "a-value"}, secrets={"S": "file:mail-x"})
    attempt = JobAttempt.objects.create(job=job, number=1, worker="w", executor="default", launched_at=THEN)
    JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"printed-by-it")
    for client, seen in (
        (staff(Act.VIEW), False),
        (staff(Act.VIEW, Act.SEE_ENVIRONMENT, Act.SEE_OUTPUT, name="eve"), True),
    ):
        page = client.get(reverse(CHANGE, args=[job.pk])).content.decode()
        assert job.command in page
        assert [text in page for text in ("a-value", "file:mail-x", "printed-by-it")] == [seen] * 3


@pytest.mark.shows("howto/permissions.md#give-permissions")
@pytest.mark.parametrize("status", ["failed", "retrying"])
def test_an_error_message_is_shown_only_to_users_who_may_see_the_output(status: str) -> None:
    job = job_in(status, attempt=1, failure_reason="error", exit_code=7, last_error="printed: swordfish")
    JobAttempt.objects.create(
        job=job,
        number=1,
        worker="w",
        executor="default",
        launched_at=THEN,
        finished_at=THEN,
        message="printed: swordfish",
    )
    user, other = user_who_may(*(act for act in Act if act != Act.SEE_OUTPUT)), user_who_may(*Act, name="eve")
    urls = [
        reverse(CHANGE, args=[job.pk]),
        reverse("container_manager_dashboard:job", args=[job.pk]),
        *(f"/jobs/api/v1/jobs/{job.pk}{end}" for end in ("", "/attempts", "/explanation")),
        *([reverse("container_manager_dashboard:failures")] if status == "failed" else []),
    ]
    for seen, who in ((False, user), (True, other)):
        type(who).objects.filter(pk=who.pk).update(is_staff=True)
        client = Client()
        client.force_login(who)
        for url in urls:
            answer = client.get(url)
            assert answer.status_code == 200
            assert ("swordfish" in answer.content.decode()) == seen, url
        page = client.get(urls[1]).content.decode()
        assert "exit code 7" in page


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("action", "act", "status"),
    [
        ("cancel_jobs", Act.CANCEL, "queued"),
        ("kill_jobs", Act.CANCEL, "cancelled"),
        ("retry_jobs", Act.RETRY, "failed"),
        ("queue_jobs", Act.SUBMIT, "pending"),
    ],
)
def test_an_action_of_the_admin_needs_the_permission_of_its_act(
    action: str, act: Act, status: str, settings: Any
) -> None:
    job = job_in(status)
    JobAttempt.objects.create(job=job, number=1, worker="w", executor="default", launched_at=THEN)

    def state() -> Any:
        return row_of(job), list(JobAttempt.objects.values())

    def post(client: Client) -> bool:
        before = state()
        client.post(reverse(LIST), {"action": action, "_selected_action": [job.pk]})
        return bool(state() != before)

    assert not post(staff(*(each for each in Act if each != act)))
    client = staff(Act.VIEW, act, name="eve")
    settings.CONTAINER_MANAGER = {"READ_ONLY": True}
    assert not post(client)
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    assert not post(client)
    settings.CONTAINER_MANAGER = {}
    assert post(client)


def test_the_admin_has_no_page_of_a_job_that_the_rule_hides(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    mine, other = (
        job_in("queued", name="my-job", labels={"team": "ada"}),
        job_in("queued", name="their-job", labels={"team": "bob"}),
    )
    client = staff(Act.VIEW)
    page = client.get(reverse(LIST)).content.decode()
    assert ("my-job" in page, "their-job" in page) == (True, False)
    assert client.get(reverse(CHANGE, args=[mine.pk])).status_code == 200
    assert client.get(reverse(CHANGE, args=[other.pk])).status_code == 302


@pytest.mark.without_database
def test_the_tables_of_the_dashboard_are_read_only_in_the_admin() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    for model in ("auditentry", "bulkact", "apitoken"):
        assert client.get(reverse(f"admin:container_manager_dashboard_{model}_changelist")).status_code == 200
        assert client.get(reverse(f"admin:container_manager_dashboard_{model}_add")).status_code == 403


def test_a_user_who_may_not_see_the_environment_of_a_job_cannot_change_its_command() -> None:
    job = job_in("pending", secrets={"TOKEN": "file:mail-x"})
    client = staff(Act.VIEW)
    user = User.objects.get(username="ada")
    user.user_permissions.add(Permission.objects.get(codename="change_containerjob"))
    assert client.get(reverse(CHANGE, args=[job.pk])).status_code == 200
    assert client.post(reverse(CHANGE, args=[job.pk]), {"command": "env"}).status_code == 403
    assert row_of(job)["command"] == "true"
