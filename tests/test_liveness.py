"""All that asks which workers are live means the same: those whose lease has not expired, by the database's clock."""

from __future__ import annotations

import pytest

from container_manager import queue, store
from container_manager.dashboard.admin_list import known_executors
from container_manager.dashboard.workforce import workforce
from container_manager.models import JobAttempt, Worker

from .jobs import THEN, job_in
from .protocol.records import expire_lease, register

pytestmark = pytest.mark.django_db


def test_every_query_counts_a_worker_as_live_until_its_lease_has_expired() -> None:
    for name in ("held", "over"):
        register(name, executors=(f"of-{name}",))
    expire_lease("over")
    assert [worker.pk for worker in Worker.objects.live()] == ["held"]
    assert {worker.pk: worker.is_live for worker in Worker.objects.with_liveness()} == {"held": True, "over": False}
    assert {row.worker.pk: row.is_live for row in workforce(None, using="default").rows} == {
        "held": True,
        "over": False,
    }
    assert store.live_workers(using="default") == ["held"]
    assert {lease.worker: lease.is_over for lease in store.other_leases(worker="", using="default")} == {
        "held": False,
        "over": True,
    }
    assert store.look(worker="held", executors=["default"], queues=None, using="default").maintains
    assert store.unserved([("of-held", "q"), ("of-over", "q")], using="default") == [("of-over", "q")]
    assert {"of-held", "of-over"} & {*known_executors(using="default")} == {"of-held"}
    codes = [queue.explain(queue.enqueue(command="true", executor=f"of-{name}")).code for name in ("held", "over")]
    assert codes == ["due", "no_worker"]


def test_a_worker_of_many_attempts_is_shown_with_all_of_them() -> None:
    register("w")
    jobs = [job_in("running", worker="w", attempt=1) for _ in range(600)]
    JobAttempt.objects.bulk_create(
        [JobAttempt(job=job, number=1, worker="w", executor="default", launched_at=THEN) for job in jobs]
    )
    (row,) = workforce(None, using="default").rows
    assert len(row.attempts) == 600
