"""``container show`` and ``container explain``, as users type them."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from container_manager import queue
from container_manager.jobs.spec import JobSpec
from container_manager.models import ContainerJob

from .jobs import job_in
from .test_explanation import claimed, finished
from .typed_commands import typed

pytestmark = pytest.mark.django_db(transaction=True)


def failed_job() -> ContainerJob:
    job = queue.enqueue(command="sh -c 'exit 7'", name="report", environment={"A": "1"}, max_retries=0)
    # As a row that was written by SQL: the settings of the tests allow no secrets.
    ContainerJob.objects.update(secrets={"TOKEN": "file:token"})
    return finished(claimed(job), exit_code=7, reason="error", message="Exit code 7.\n\x1b[31mRed.")


@pytest.mark.shows("reference/commands.md#commands")
def test_explain_prints_the_explanation_as_text_and_as_json() -> None:
    job = failed_job()
    printed = typed("explain", str(job.pk)[:18])
    assert (printed.returncode, printed.stderr) == (0, "")
    summary, *evidence, next_step = printed.stdout.splitlines()
    assert summary == "Its command ended with exit code 7."
    assert "- Its last error: Exit code 7.\\n\\x1b[31mRed." in evidence
    assert next_step.startswith("Next: See why in its output: 'container logs ")
    found = asdict(queue.explain(ContainerJob.objects.get()))
    assert json.loads(typed("explain", "report", "--json").stdout) == {**found, "evidence": list(found["evidence"])}


@pytest.mark.shows("reference/commands.md#commands")
def test_show_prints_a_whole_job_and_only_the_references_of_its_secrets() -> None:
    job = failed_job()
    printed = typed("show", "report")
    assert (printed.returncode, printed.stderr) == (0, "")
    lines = printed.stdout.splitlines()
    fields = dict(line.split(maxsplit=1) for line in lines[1 : lines.index("")])
    assert (fields["id"], fields["status"], fields["exit_code"]) == (str(job.pk), "failed", "7")
    assert (fields["environment"], fields["secrets"]) == ('{"A": "1"}', '{"TOKEN": "file:token"}')
    assert fields["queued_at"].endswith(" UTC")
    assert "Its command ended with exit code 7." in lines
    [attempt] = [line for line in lines if line.startswith("1 ")]
    assert "Exit code 7.\\n\\x1b[31mRed." in attempt
    assert [line.split()[1] for line in lines[-2:]] == ["queued", "running"]
    assert "\x1b" not in printed.stdout


@pytest.mark.shows("reference/commands.md#commands")
def test_show_as_json_has_the_keys_that_the_docs_name() -> None:
    job = failed_job()
    found = json.loads(typed("show", str(job.pk), "--json").stdout)
    assert set(found) == {"job", "attempts", "transitions", "explanation"}
    assert set(JobSpec._fields) | {"status", "worker", "last_error"} <= set(found["job"])
    assert (found["job"]["id"], found["job"]["secrets"]) == (str(job.pk), {"TOKEN": "file:token"})
    [attempt] = found["attempts"]
    assert (attempt["number"], attempt["worker"], attempt["reason"]) == (1, "w", "error")
    assert [row["to_status"] for row in found["transitions"]] == ["running", "failed"]
    assert set(found["transitions"][0]) == {"at", "from_status", "to_status", "actor", "reason", "seconds"}
    assert found["explanation"]["code"] == "error"


@pytest.mark.without_database
@pytest.mark.parametrize("verb", ["show", "explain"])
def test_an_unknown_job_is_reported_in_one_sentence(verb: str) -> None:
    job_in("queued", name="another")
    done = typed(verb, "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No job is called 'nobody'" in done.stderr
    assert "Traceback" not in done.stderr
