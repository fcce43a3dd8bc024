"""Lists cost what they show: neither `container ps` nor the admin's list reads the jobs that it does not show."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from container_manager.models import ContainerJob

from .bulk_jobs import BulkJobs
from .test_idle_cost import asked_by, rows_read

pytestmark = pytest.mark.django_db(transaction=True)
_TABLE = ContainerJob._meta.db_table
LIST = "admin:container_manager_containerjob_changelist"


def ps() -> None:
    call_command("container", "ps", stdout=StringIO())


def admin_list(query: str = "") -> Callable[[], None]:
    def look() -> None:
        client = Client()
        client.force_login(User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0])
        assert client.get(reverse(LIST) + query).status_code == 200

    return look


LOOKS: dict[str, Callable[[], None]] = {
    "ps": ps,
    "admin": admin_list(),
    "admin, running": admin_list("?status=running"),
    "admin, queued": admin_list("?status=queued"),
    "admin, failed": admin_list("?status=failed"),
    "admin, search": admin_list("?q=nothing"),
}


def jobs_read(look: Callable[[], None]) -> int:
    return sum(rows_read(statement) for statement in asked_by(look) if _TABLE in statement[0])


def test_the_cost_of_a_list_does_not_grow_with_the_number_of_jobs() -> None:
    jobs = BulkJobs()
    for status in ("queued", "running", "retrying"):
        jobs.add(status, 20)
    # As many as are counted.
    jobs.add("completed", 10_500)
    jobs.analyze()
    few = {name: jobs_read(look) for name, look in LOOKS.items()}
    jobs.add("completed", 12_000)
    jobs.analyze()
    many = {name: jobs_read(look) for name, look in LOOKS.items()}
    assert {name: count for name, count in many.items() if count > few[name] * 1.5 + 50} == {}
