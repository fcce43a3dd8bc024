"""Acts on some jobs, and on all that match: each job once, whoever does the work, with what was refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connections

from container_manager.conf import AppSettings
from container_manager.dashboard.access import Act
from container_manager.dashboard.acts import act_on_all, advance, stop
from container_manager.dashboard.job_acts import JobAct, act_on, act_on_some, legal_acts
from container_manager.dashboard.models import BulkAct
from container_manager.dashboard.search import parse
from container_manager.models import ContainerJob, JobAttempt, JobTransition
from container_manager.signals import maintenance_due
from container_manager.worker.maintenance import Maintenance

from .bulk_jobs import BulkJobs
from .dashboard_users import TEAM_RULE, user_who_may
from .jobs import STATUSES, THEN, job_in, journal_of, row_of

pytestmark = pytest.mark.django_db
_COMPLETED = "It is completed now, which does not allow this."


@pytest.mark.parametrize("status", STATUSES)
def test_the_buttons_of_a_job_are_the_acts_that_its_status_and_its_user_allow(status: str) -> None:
    job = job_in(status)
    allowed = {
        "pending": "queue cancel", "queued": "cancel", "running": "cancel", "retrying": "cancel",
        "failed": "retry cancel", "completed": "retry", "cancelled": "retry",
    }[status].split()  # fmt: skip
    assert list(legal_acts(user_who_may(*Act), job)) == allowed
    user = user_who_may(Act.VIEW, Act.RETRY, name="bob")
    assert list(legal_acts(user, job)) == [act for act in allowed if act == "retry"]
    assert legal_acts(user_who_may(Act.CANCEL, name="blind"), job) == ()


@pytest.mark.parametrize("status", ["running", "cancelled"])
def test_the_button_to_cancel_at_once_is_shown_only_while_an_attempt_runs(status: str) -> None:
    user, job = user_who_may(Act.VIEW, Act.CANCEL), job_in(status)
    attempt = JobAttempt.objects.create(job=job, number=1, worker="w", executor="default", launched_at=THEN)
    assert JobAct.KILL in legal_acts(user, job)
    attempt.finished_at = THEN
    attempt.save()
    assert JobAct.KILL not in legal_acts(user, job)


def test_selected_jobs_change_or_are_refused_each_with_its_reason() -> None:
    user, jobs = user_who_may(*Act), [job_in(status) for status in STATUSES]
    acted = act_on_some([job.pk for job in jobs], JobAct.CANCEL, user=user, reason="stop")
    assert acted.changed == 5
    assert dict(acted.refused) == {_COMPLETED: 1, "It is cancelled now, which does not allow this.": 1}
    acted = act_on_some([job.pk for job in jobs], JobAct.RETRY, user=user)
    # All of them again as new jobs.
    assert (acted.changed, ContainerJob.objects.filter(status="queued", created_by="ada").count()) == (7, 7)
    with pytest.raises(ValidationError, match="At most 1000"):
        act_on_some([job.pk for job in jobs] * 200, JobAct.CANCEL, user=user)


def test_killing_cancelled_jobs_counts_those_with_a_running_attempt() -> None:
    user, jobs = user_who_may(*Act), [job_in("cancelled"), job_in("cancelled"), job_in("running")]
    for job in jobs[1:]:
        JobAttempt.objects.create(job=job, number=1, worker="w", executor="default", launched_at=THEN)
    acted = act_on_some([job.pk for job in jobs], JobAct.KILL, user=user)
    assert (acted.changed, acted.refused.total()) == (2, 1)
    assert JobAttempt.objects.filter(kill_requested_at=None).count() == 0


def test_a_retry_of_a_failed_job_is_due_at_once() -> None:
    job = job_in("failed", scheduled_for=THEN)
    act_on_some([job.pk], JobAct.RETRY, user=user_who_may(*Act), reason="again")
    assert (row_of(job)["status"], row_of(job)["scheduled_for"], row_of(job)["retry_count"]) == ("queued", None, 1)
    assert journal_of(job) == [("failed", "retrying"), ("retrying", "queued")]


def test_a_single_act_needs_the_permission_and_that_the_user_sees_the_job(settings: Any) -> None:
    job = job_in("queued", labels={"team": "bob"})
    with pytest.raises(PermissionDenied, match=r"container_manager\.cancel_containerjob"):
        act_on(job, JobAct.CANCEL, user=user_who_may(Act.VIEW))
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    with pytest.raises(PermissionDenied):
        act_on(job, JobAct.CANCEL, user=user_who_may(*Act, name="eve"))
    assert act_on(job, JobAct.CANCEL, user=user_who_may(*Act, name="bob")).status == "cancelled"


def test_an_act_on_all_takes_only_jobs_that_matched_at_its_start() -> None:
    user = user_who_may(*Act)
    old = [job_in("queued", queue="reports") for _ in range(3)]
    other = job_in("queued")
    bulk = act_on_all(parse("queue:reports"), JobAct.CANCEL, user=user)
    late = job_in("queued", queue="reports")
    advance(bulk)
    assert (bulk.changed, bulk.examined, bulk.refused, bulk.finished_at is not None) == (3, 3, {}, True)
    assert [row_of(job)["status"] for job in (*old, other, late)] == ["cancelled"] * 3 + ["queued"] * 2
    assert set(JobTransition.objects.values_list("actor", flat=True)) == {"ada"}


def test_running_again_takes_finished_jobs_as_new_ones_only_if_the_search_names_their_status() -> None:
    user = user_who_may(*Act)
    for status in ("failed", "cancelled", "completed"):
        job_in(status)
    bulk = act_on_all(parse(""), JobAct.RETRY, user=user)
    advance(bulk)
    assert (bulk.changed, sum(bulk.refused.values())) == (1, 2)
    bulk = act_on_all(parse("status:cancelled"), JobAct.RETRY, user=user)
    advance(bulk)
    assert (bulk.changed, bulk.refused, ContainerJob.objects.count()) == (1, {}, 4)


@pytest.mark.parametrize(("is_active", "said"), [(False, "no longer active"), (True, "cancel_containerjob")])
def test_an_act_on_all_ends_when_its_user_may_no_longer_do_it(is_active: bool, said: str) -> None:
    user, job = user_who_may(*Act), job_in("queued")
    bulk = act_on_all(parse(""), JobAct.CANCEL, user=user)
    user.user_permissions.clear()
    User.objects.filter(pk=user.pk).update(is_active=is_active)
    advance(bulk)
    assert bulk.finished_at is not None
    assert said in bulk.note
    assert row_of(job)["status"] == "queued"


def test_a_stopped_act_changes_nothing_more() -> None:
    user, job = user_who_may(*Act), job_in("queued")
    bulk = act_on_all(parse(""), JobAct.CANCEL, user=user)
    with pytest.raises(PermissionDenied):
        stop(bulk, user=user_who_may(Act.VIEW, name="eve"))
    stop(bulk, user=user)
    advance(bulk)
    assert (bulk.note, bulk.changed, row_of(job)["status"]) == ("Stopped by ada.", 0, "queued")


@pytest.mark.django_db(transaction=True)
def test_the_maintaining_worker_finishes_acts_that_nobody_watches() -> None:
    jobs = [job_in("queued") for _ in range(3)]
    bulk = act_on_all(parse("status:queued"), JobAct.CANCEL, user=user_who_may(*Act))
    assert maintenance_due.receivers
    Maintenance(AppSettings(), using="default").run("w1", {}, retries_are_due=False)
    bulk.refresh_from_db()
    assert (bulk.changed, bulk.finished_at is not None) == (3, True)
    assert {row_of(job)["status"] for job in jobs} == {"cancelled"}


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_advance_an_act_on_thousands_change_each_job_once() -> None:
    jobs, user = BulkJobs(), user_who_may(*Act)
    jobs.add("queued", 2500)
    jobs.add("completed", 700)
    jobs.add("failed", 300)
    bulk = act_on_all(parse("executor:default"), JobAct.CANCEL, user=user, reason="all of it")
    ready, errors = threading.Barrier(2), list[BaseException]()

    def work() -> None:
        try:
            mine = BulkAct.objects.get(pk=bulk.pk)
            ready.wait()
            while mine.finished_at is None:
                advance(mine, seconds=0)
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    bulk.refresh_from_db()
    assert (bulk.changed, bulk.examined, bulk.refused) == (2800, 3500, {_COMPLETED: 700})
    assert ContainerJob.objects.filter(status="cancelled").count() == 2800
    assert JobTransition.objects.filter(to_status="cancelled", actor="ada", reason="all of it").count() == 2800
