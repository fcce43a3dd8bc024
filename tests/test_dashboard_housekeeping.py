"""Nothing that the dashboard stores grows for ever: the maintainer deletes what is too old, in batches, by an index."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection
from django.utils import timezone

from container_manager.dashboard.access import Act
from container_manager.dashboard.acts import act_on_all
from container_manager.dashboard.housekeeping import HOUSEKEEPING_BATCH, Housekeeping, prune
from container_manager.dashboard.job_acts import JobAct
from container_manager.dashboard.models import ApiToken, AuditEntry, BulkAct
from container_manager.dashboard.search import parse

from .dashboard_users import user_who_may
from .jobs import job_in, row_of
from .test_idle_cost import asked_by, rows_read

pytestmark = pytest.mark.django_db


def add_rows(user: Any, days: float | None, *, count: int = 1) -> None:
    """Add rows that are over since so many days; None: that are not over yet."""
    at = None if days is None else timezone.now() - timedelta(days=days)
    first = ApiToken.objects.count()
    if at is not None:
        AuditEntry.objects.bulk_create(AuditEntry(at=at, actor="ada", act="kill", subject="x") for _ in range(count))
    BulkAct.objects.bulk_create(
        BulkAct(user=str(user.pk), actor="ada", act="cancel", finished_at=at, created_at=timezone.now())
        for _ in range(count)
    )
    ApiToken.objects.bulk_create(
        ApiToken(user=user, name=str(number), digest=f"{number:064}", expires_at=at)
        for number in range(first, first + count)
    )


def counts() -> list[int]:
    return [model.objects.count() for model in (AuditEntry, BulkAct, ApiToken)]


def test_only_rows_that_are_older_than_the_setting_are_deleted(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"AUDIT_DAYS": 7}
    user = user_who_may(*Act)
    for days in (8, 6, -1):
        add_rows(user, days)
    add_rows(user, None)
    BulkAct.objects.filter(finished_at=None).delete()
    housekeeping = Housekeeping()
    assert housekeeping.step(using="default")
    assert counts() == [2, 2, 3]
    assert not housekeeping.step(using="default")
    assert min(AuditEntry.objects.values_list("at", flat=True)) > timezone.now() - timedelta(days=7)


def test_old_rows_are_deleted_batch_by_batch_beside_acts_that_nobody_watches() -> None:
    user, job = user_who_may(*Act), job_in("queued")
    add_rows(user, 366, count=HOUSEKEEPING_BATCH + 1)
    act_on_all(parse("status:queued"), JobAct.CANCEL, user=user)
    housekeeping = Housekeeping()
    assert housekeeping.step(using="default")
    assert (row_of(job)["status"], counts()) == ("cancelled", [2, 2, 1])
    assert housekeeping.step(using="default")
    assert counts() == [1, 1, 0]


def test_finding_old_rows_reads_no_other_rows() -> None:
    user = user_who_may(*Act)

    def analyze() -> None:
        # Elsewhere no statistics are needed, and MariaDB would commit.
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                for model in (AuditEntry, BulkAct, ApiToken):
                    cursor.execute(f"ANALYZE {model._meta.db_table}")

    def look() -> None:
        prune(before=timezone.now() - timedelta(days=2), using="default")

    add_rows(user, 1, count=50)
    analyze()
    few = sum(rows_read(statement) for statement in asked_by(look))
    add_rows(user, 1, count=2000)
    analyze()
    assert sum(rows_read(statement) for statement in asked_by(look)) <= few * 1.5 + 20


@pytest.mark.parametrize("error", [OperationalError("the server closed the connection"), IntegrityError("a bad row")])
def test_housekeeping_leaves_a_database_outage_to_the_worker_and_logs_a_refused_row(error: DatabaseError) -> None:
    def fail(*_: Any) -> Any:
        raise error

    expected: Any = nullcontext() if isinstance(error, OperationalError) else pytest.raises(IntegrityError)
    with connection.execute_wrapper(fail), expected:
        assert Housekeeping().step(using="default") is False
