"""A command and the admin find a job by the beginning of its id or by its name, and read no others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin import site
from django.db import connection
from django.http import HttpRequest

from container_manager.admin import ContainerJobAdmin
from container_manager.cli.finding import Refused, find_job, short_id
from container_manager.jobs.identifiers import uuid7
from container_manager.models import ContainerJob

from .bulk_jobs import BulkJobs
from .jobs import job_in

pytestmark = pytest.mark.django_db(transaction=True)
_OPTIONS = {"database": "default"}


def version_7(beginning: str) -> uuid.UUID:
    return uuid.UUID(beginning + uuid7().hex[len(beginning) :])


@pytest.mark.parametrize("length", [4, 8, 12, 13, 16, 17, 20, 31, 32])
def test_an_id_prefix_of_any_length_finds_the_job_and_not_its_neighbours(length: int) -> None:
    digits = uuid7().hex
    wanted = job_in("queued", pk=uuid.UUID(digits))
    for step in (-1, 1):
        # The next ids that begin otherwise, in the last digit of what is looked for.
        last = 11 if length == 13 else min(length, 16) - 1
        other = digits[:last] + f"{(int(digits[last], 16) + step) % 16:x}" + digits[last + 1 :]
        if other[12] == "7":
            job_in("queued", pk=uuid.UUID(other))
    assert find_job(_OPTIONS, digits[:length]) == wanted
    assert find_job(_OPTIONS, digits[:length].upper()) == wanted


def test_each_of_many_jobs_is_found_by_its_short_id() -> None:
    jobs = [job_in("queued") for _ in range(50)]
    assert [find_job(_OPTIONS, short_id(job.pk)) for job in jobs] == jobs


def test_an_ambiguous_id_prefix_is_refused() -> None:
    day = uuid7().hex[:6]
    for _ in range(2):
        job_in("queued", pk=version_7(day))
    with pytest.raises(Refused, match="means more than one job"):
        find_job(_OPTIONS, day)


def test_a_name_of_several_jobs_is_refused_with_their_ids_and_statuses() -> None:
    found = [job_in(status, name="report") for status in ("completed", "queued")]
    with pytest.raises(Refused) as refusal:
        find_job(_OPTIONS, "report")
    for job in found:
        assert f"{short_id(job.pk)} ({job.status})" in str(refusal.value)


def test_a_name_of_hexadecimal_digits_finds_its_job() -> None:
    named = job_in("queued", name="deadbeef")
    assert find_job(_OPTIONS, "deadbeef") == named
    with pytest.raises(Refused, match="No job is called 'cafe'"):
        find_job(_OPTIONS, "cafe")


def plans_of(asks: Callable[[], object]) -> list[str]:
    """Return the plan of each statement about jobs that something asks."""
    asked: list[tuple[str, Any]] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        asks()
    explain, plans = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN", []
    with connection.cursor() as cursor:
        for sql, params in asked:
            if ContainerJob._meta.db_table in sql:
                cursor.execute(f"{explain} {sql}", params)
                plans.append(" ".join(str(cell) for row in cursor.fetchall() for cell in row))
    return plans


# What a plan says that looks up the primary key, and one that looks up the name.
_BY_KEY = {
    "sqlite": "INDEX sqlite_autoindex_container_manager_containerjob_1 (id>",
    "postgresql": "container_manager_containerjob_pkey",
    "mysql": "PRIMARY",
}
_BY_NAME = {
    "sqlite": "SEARCH container_manager_containerjob USING INDEX cm_job_name (name=?",
    "postgresql": "cm_job_name",
    "mysql": "cm_job_name",
}


@pytest.mark.shows("howto/queue.md#find-a-job")
def test_an_id_and_a_name_are_looked_up_in_their_indexes() -> None:
    jobs = BulkJobs()
    jobs.add("completed", 20_000)
    jobs.add("completed", 20_000, name="the same")
    job = job_in("queued", name="report")
    jobs.analyze()
    newest_first = ContainerJob.objects.order_by("-pk")

    def in_admin(text: str) -> list[ContainerJob]:
        found, _ = ContainerJobAdmin(ContainerJob, site).get_search_results(HttpRequest(), newest_first, text)
        return list(found[:100])

    for asks in (lambda: find_job(_OPTIONS, short_id(job.pk)), lambda: in_admin(short_id(job.pk))):
        for plan in plans_of(asks):
            assert _BY_KEY[connection.vendor] in plan
    for asks in (lambda: find_job(_OPTIONS, "report"), lambda: in_admin("report")):
        [plan] = plans_of(asks)
        assert _BY_NAME[connection.vendor] in plan
    for plan in plans_of(lambda: in_admin("the same")):
        assert "Seq Scan" not in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan
    assert in_admin("report") == [job] == in_admin(short_id(job.pk))
    assert in_admin("repor") == []
    assert len(in_admin("the same")) == 100


def test_jobs_without_a_name_are_not_searched_by_name() -> None:
    job_in("queued")
    assert list(ContainerJob.objects.named("")) == []
