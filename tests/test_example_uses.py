"""The example's three uses of jobs: a report, a batch of images, and code that a user submits."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings

from container_manager import queue
from container_manager.testing import FakeRun, fake_jobs, run_job, run_queued_jobs
from example.tasks import sum_sales
from example.uses import order_report, run_users_code, shrink_images

pytestmark = [pytest.mark.django_db, pytest.mark.usual_statements]


def image(width: int, height: int) -> bytes:
    return b"P6\n%d %d\n255\n" % (width, height) + bytes(range(3 * width * height))


def test_a_report_is_the_output_of_its_job_and_runs_before_other_jobs() -> None:
    queue.enqueue(name="other", command="true")
    order_report([{"product": product, "amount": amount} for product, amount in [("tea", 2), ("ale", 3), ("tea", 5)]])
    report, other = run_queued_jobs()
    assert (report.name, report.status, other.name) == ("report", "completed", "other"), report.last_error
    assert report.output(stream="stdout") == b"product,amount\nale,3\ntea,7\n"


def test_a_task_returns_its_sums() -> None:
    python = {"BACKEND": "container_manager.executors.python.PythonExecutor"}
    with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"default": python}}):
        result = sum_sales.enqueue([{"product": product, "amount": amount} for product, amount in [("tea", 2)] * 2])
        run_queued_jobs()
    result.refresh()
    assert (result.status, result.return_value) == ("SUCCESSFUL", {"tea": 4})


def test_each_image_of_a_batch_is_a_job_and_a_damaged_image_blocks_no_other(tmp_path: Path) -> None:
    sources, results = tmp_path / "sources", tmp_path / "results"
    sources.mkdir()
    results.mkdir()
    (sources / "a.ppm").write_bytes(image(3, 2))
    (sources / "b.ppm").write_bytes(image(2, 2)[:-1])
    shrink_images(sorted(sources.iterdir()), into=results, actor="alice")
    good, bad = run_queued_jobs(queues=["images"])
    assert (good.status, bad.status) == ("completed", "retrying")
    assert b"b.ppm is damaged: it has 11 bytes of 12" in bad.output()
    assert [path.name for path in results.iterdir()] == ["a.ppm"]
    assert (results / "a.ppm").read_bytes() == b"P6\n2 1\n255\n" + bytes([0, 1, 2, 6, 7, 8])
    (sources / "b.ppm").write_bytes(image(2, 2))
    assert run_job(bad).status == "completed"


def test_a_users_code_is_refused_where_nothing_isolates_it() -> None:
    job = run_job(run_users_code("print(1)", user="bob"))
    assert (job.status, job.failure_reason, job.output(stream="stdout")) == ("failed", "start", b"")


def test_containers_run_the_same_programs_in_an_image() -> None:
    with override_settings(EXAMPLE_JOB_IMAGE="python:3.13-slim"), fake_jobs() as fake:
        run_job(order_report([]))
    [launched] = fake.launched
    assert (launched.job.image, launched.argv[:3]) == ("python:3.13-slim", ("python", "-I", "-c"))


def test_a_users_code_is_one_argument_of_its_command_whatever_it_contains() -> None:
    code = "print('''\"; rm -rf / #''')\n$(reboot)"
    with fake_jobs({"user's code": FakeRun(stdout="1\n")}) as fake:
        job = run_job(run_users_code(code, user="bob"))
    assert job.output() == b"1\n"
    [launched] = fake.launched
    assert launched.argv == ("python", "-I", "-c", code)
    assert (launched.job.image, launched.job.timeout_seconds, launched.job.secrets) == ("python:3.13-slim", 10, {})
    assert launched.container.network == ""
