"""Workers on hosts whose clock is wrong, beside one whose clock is right: jobs, leases and times are as ever."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from django.db import connection, models

from container_manager import store
from container_manager.models import ContainerJob, JobAttempt, JobTransition, Worker

from ..prerequisites import require
from ..workers import eventually
from .cluster_site import BEGUN, DONE, LEASE_SECONDS, ClusterSite, attempts_of, notes_on_output, output_of

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no clock but that of each of its processes"),
]
_HOUR, _MOMENT = timedelta(hours=1), timedelta(seconds=5)
_TIMEOUT, _LONG_TIMEOUT, _RETRY = timedelta(seconds=5), timedelta(seconds=40), timedelta(seconds=4)
# For times that are compared with a stored length: an engine is looked at from time to time.
_LATE = timedelta(seconds=60)
_COUNT = "i=0; while ! test -e $EFFECTS/go; do echo line $i; i=$((i+1)); sleep 0.2; done; echo $i > $EFFECTS/count"


def variables_of_clock(shift: timedelta) -> dict[str, str]:
    """Return the variables of a process whose clock is wrong by that much; how long something takes stays so."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    require("faketime", found)
    seconds = f"{shift.total_seconds():+.0f}"
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": seconds, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture(params=[_HOUR, -_HOUR], ids=["an hour fast", "an hour slow"])
def wrong_clock(request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables of a worker whose clock is wrong."""
    variables = variables_of_clock(request.param)
    command = [sys.executable, "-c", "import time; print(time.time())"]
    said = subprocess.run(command, env=variables, capture_output=True, check=True, text=True).stdout
    assert abs(float(said) - (datetime.now(UTC) + request.param).timestamp()) < 60
    return variables


@contextmanager
def worker(site: ClusterSite, clock: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    seconds = _RETRY.total_seconds()
    retry = {"INITIAL_SECONDS": seconds, "MAX_SECONDS": seconds}
    with site.worker("--slots", "10", variables={**clock, "CM_WORKER_RETRY": json.dumps(retry)}) as process:
        yield process


def await_taken_over(by: subprocess.Popen[bytes], *jobs: ContainerJob) -> None:
    """Return when a worker has the open attempts of these jobs."""

    def are_its() -> bool:
        found = JobAttempt.objects.filter(job__in=jobs, finished_at=None).values_list("worker", flat=True)
        return {*Worker.objects.filter(pid=by.pid).values_list("id", flat=True)} == {*found}

    eventually(are_its)


@pytest.mark.shows("explanation/worker.md#clocks", "explanation/kubernetes.md#when-something-is-away")
def test_workers_whose_clock_is_wrong_time_retry_and_take_over_as_one_whose_clock_is_right(
    site: ClusterSite, wrong_clock: dict[str, str]
) -> None:
    began = store.database_now(using="default")
    with worker(site, wrong_clock) as wrong:
        long = site.start(f"{BEGUN}; {_COUNT}; {DONE}", max_retries=1, timeout_seconds=900)
        timed = site.enqueue("exec sleep 600", timeout_seconds=round(_LONG_TIMEOUT.total_seconds()))
        short = site.enqueue("exec sleep 600", timeout_seconds=round(_TIMEOUT.total_seconds()))
        retried = site.enqueue("test $CONTAINER_MANAGER_ATTEMPT = 2", max_retries=1)
        site.await_status(short, "failed")
        site.await_status(retried, "completed")
        with worker(site, {}) as right:
            later = site.enqueue("test $CONTAINER_MANAGER_ATTEMPT = 2", max_retries=1)
            site.await_status(later, "completed")
            # Neither takes the other for dead.
            assert Worker.objects.count() == 2
            await_taken_over(wrong, long, timed)
            wrong.kill()
            killed_at = store.database_now(using="default")
            await_taken_over(right, long, timed)
            # Its lease was left to it.
            assert store.database_now(using="default") - killed_at > timedelta(seconds=LEASE_SECONDS / 2)
            with worker(site, wrong_clock) as other:
                right.kill()
                await_taken_over(other, long)
                (site.effects() / "go").touch()
                site.await_status(long, "completed")
                site.await_status(timed, "failed")
                site.assert_clean()
    assert (attempts_of(long), site.runs()) == ([(1, 0, "")], ["begin 1", "end 1"])
    count = int((site.effects() / "count").read_text())
    assert output_of(long) == b"".join(b"line %d\n" % number for number in range(count))
    assert notes_on_output(long) == []
    assert [attempt[2] for job in (short, timed) for attempt in attempts_of(job)] == ["timeout", "timeout"]
    for job, timeout in ((short, _TIMEOUT), (timed, _LONG_TIMEOUT)):
        attempt = job.attempts.get()
        assert attempt.finished_at is not None
        assert timeout <= attempt.finished_at - attempt.launched_at < timeout + _LATE
    for job in (retried, later):
        assert attempts_of(job) == [(1, 1, "error"), (2, 0, "")]
        first, second = job.attempts.order_by("number")
        assert first.finished_at is not None
        assert _RETRY <= second.launched_at - first.finished_at < _RETRY + _LATE
    assert_times_are_in_order_and_by_the_databases_clock(began)


def assert_times_are_in_order_and_by_the_databases_clock(began: datetime) -> None:
    least, most = began - _MOMENT, store.database_now(using="default") + _MOMENT
    for model in (ContainerJob, JobAttempt, JobTransition):
        names = [field.name for field in model._meta.fields if isinstance(field, models.DateTimeField)]
        for row in model._default_manager.values(*names):
            wrong = {name: at for name, at in row.items() if at is not None and not least <= at <= most}
            assert wrong == {}, (model, row)
    for attempt in JobAttempt.objects.all():
        assert attempt.finished_at is not None
        assert attempt.launched_at <= attempt.finished_at
    for job in ContainerJob.objects.all():
        times = [*job.transitions.order_by("id").values_list("at", flat=True)]
        assert all(earlier <= later for earlier, later in pairwise(times)), times
        assert job.launched_at is not None
        assert job.completed_at is None or job.launched_at <= job.completed_at
