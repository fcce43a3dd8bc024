"""A command finds its job by the beginning of an id, and reads no other keys."""

from __future__ import annotations

import uuid

import pytest
from django.db import connection

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
def test_a_beginning_of_any_length_finds_the_job_and_not_its_neighbours(length: int) -> None:
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


def test_a_beginning_of_several_ids_is_refused() -> None:
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


def test_a_beginning_is_looked_up_in_the_index_of_the_primary_key() -> None:
    jobs = BulkJobs()
    jobs.add("completed", 20_000)
    job = job_in("queued")
    jobs.analyze()
    asked: list[tuple[str, object]] = []

    def note(execute: object, sql: str, params: object, many: bool, context: object) -> object:
        asked.append((sql, params))
        return execute(sql, params, many, context)  # type: ignore[operator]

    with connection.execute_wrapper(note):
        assert find_job(_OPTIONS, short_id(job.pk)) == job
    ((sql, params),) = asked
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {sql}", params)
        plan = " ".join(str(cell) for row in cursor.fetchall() for cell in row)
    expected = {
        "sqlite": "SEARCH",
        "postgresql": "Index Scan using container_manager_containerjob_pkey",
        "mysql": "PRIMARY",
    }
    assert expected[connection.vendor] in plan
    assert ContainerJob.objects.count() > 20_000
