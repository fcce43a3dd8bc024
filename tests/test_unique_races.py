"""Processes that enqueue the same unique key at the same time: one job, which all of them get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.db import connection

from container_manager import queue
from container_manager.models import ContainerJob

pytestmark = pytest.mark.django_db(transaction=True)

SCOPES: dict[str, dict[str, Any]] = {
    "until finished": {},
    "until started": {"unique_until": "started"},
    "for an hour": {"unique_seconds": 3600},
}

# Answers each line, the arguments of a job, by its id and whether it was there; a job of its own it may cancel at once.
_RIVAL = """
import json, sys, django
django.setup()
from container_manager import queue
for line in sys.stdin:
    order = json.loads(line)
    job = queue.enqueue(command="true", **order["job"])
    if order["cancels"] and not job.existed:
        queue.cancel(job)
    print(json.dumps([str(job.pk), job.existed]), flush=True)
"""


@contextmanager
def rivals(count: int) -> Iterator[Sequence[subprocess.Popen[str]]]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
        "CM_WORKER_LEASE_SECONDS": "30",
    }
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _RIVAL],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            started.append(process)
        yield started


def ask_all(processes: Sequence[subprocess.Popen[str]], job: dict[str, Any], *, cancels: bool) -> list[list[Any]]:
    """Have all enqueue the same job at the same time; return their answers."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"job": job, "cancels": cancels}) + "\n")
        process.stdin.flush()
    return [json.loads(process.stdout.readline()) for process in processes if process.stdout is not None]


def compete(*, processes: int, trials: int, scope: dict[str, Any]) -> None:
    with rivals(processes) as started:
        for trial in range(trials):
            # In every other trial keys are given up all the time: then each job is one that some process has created.
            cancels = trial % 2 == 1
            job = {"unique_key": f"trial-{trial}", **scope}
            answers = ask_all(started, job, cancels=cancels)
            created = {pk for pk, existed in answers if not existed}
            assert {pk for pk, _ in answers} == created, answers
            rows = ContainerJob.objects.filter(unique_key=job["unique_key"])
            assert {str(pk) for pk in rows.values_list("pk", flat=True)} == created
            assert cancels or len(created) == 1, answers
            # Of a process that has cancelled its job nothing is left.
            assert queue.enqueue(command="true", **job).existed is not cancels


def test_two_processes_that_race_for_a_key_get_the_same_job() -> None:
    compete(processes=2, trials=20, scope=SCOPES["until finished"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scope", SCOPES.values(), ids=list(SCOPES))
def test_eight_processes_that_race_for_a_key_get_the_same_job(scope: dict[str, Any]) -> None:
    compete(processes=8, trials=500, scope=scope)


def many(keys: Sequence[str]) -> list[ContainerJob]:
    return queue.enqueue_many([ContainerJob(command="true", unique_key=key) for key in keys])


def test_a_bulk_enqueue_of_keys_that_are_held_in_part_keeps_to_the_order_of_its_jobs() -> None:
    there = {job.unique_key: job.pk for job in many(["b", "d"])}
    found = many(["d", "c", "b", "a"])
    assert [job.unique_key for job in found] == ["d", "c", "b", "a"]
    assert [job.existed for job in found] == [True, False, True, False]
    assert {job.pk for job in found if job.existed} == set(there.values())
