"""A job belongs to the trace of whoever submits it, as an SDK of OpenTelemetry records it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from django.db import connection

from container_manager import queue
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.jobs import tracing
from container_manager.models import ContainerJob
from container_manager.worker import WorkerLoop, WorkerOptions

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.without_database]
# In a process of its own: a tracer provider holds for a whole process.
_PROGRAM = """
import json, django
django.setup()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from django.core.management import call_command
from container_manager import queue
from container_manager.models import ContainerJob
print_it = "sh -c 'echo $TRACEPARENT'"
with trace.get_tracer("request").start_as_current_span("request"):
    first = queue.enqueue(command=print_it)
    second, = queue.enqueue_many([ContainerJob(command="false", max_retries=0)])
own = queue.enqueue(command=print_it, environment={"TRACEPARENT": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
call_command("container", "worker", "--drain", "--log-level", "ERROR")
spans = [
    {"name": s.name, "trace": format(s.context.trace_id, "032x"), "span": format(s.context.span_id, "016x"),
     "parent": s.parent and format(s.parent.span_id, "016x"), "seconds": (s.end_time - s.start_time) / 1e9,
     "status": s.status.status_code.name, "attributes": dict(s.attributes)}
    for s in exporter.get_finished_spans()
]
jobs = [(str(job.pk), job.output().decode()) for job in (first, second, own)]
print(json.dumps({"spans": spans, "jobs": jobs}))
"""


def run_traced() -> Any:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
        "CM_WORKER_LEASE_SECONDS": "30",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.shows("howto/monitoring.md#traces")
def test_a_job_and_its_attempts_are_in_the_trace_of_its_submitter() -> None:
    result = run_traced()
    spans, jobs = result["spans"], result["jobs"]
    [request] = [span for span in spans if span["name"] == "request"]
    submits = [span for span in spans if span["name"] == "container job submit"]
    attempts = {
        span["attributes"]["container_manager.job"]: span for span in spans if span["name"] == "container job attempt"
    }
    assert [span["parent"] for span in submits] == [request["span"], request["span"], None]
    (first, printed), (second, _), (own, own_printed) = jobs
    assert printed.strip().split("-")[:3] == ["00", request["trace"], submits[0]["span"]]
    for job, submit in ((first, submits[0]), (second, submits[1])):
        assert (attempts[job]["trace"], attempts[job]["parent"]) == (request["trace"], submit["span"])
        assert attempts[job]["seconds"] > 0
    assert (attempts[first]["status"], attempts[second]["status"]) == ("UNSET", "ERROR")
    assert attempts[second]["attributes"]["container_manager.reason"] == "error"
    # What the submitter sets stands.
    assert own_printed.strip().split("-")[1:3] == ["1" * 32, "2" * 16]
    assert (attempts[own]["trace"], attempts[own]["parent"]) == ("1" * 32, "2" * 16)


def test_without_a_trace_a_job_has_no_trace_variable() -> None:
    job = queue.enqueue(command="true", environment={"A": "1"})
    [other] = queue.enqueue_many([ContainerJob(command="true")])
    assert (job.environment, other.environment) == ({"A": "1"}, {})


def test_without_a_configured_provider_no_span_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(tracing.trace, "get_tracer", begun.append)
    job = queue.enqueue(command="true")
    executors = {"default": ProcessExecutor()}
    WorkerLoop(settings=AppSettings(), executors=executors, options=WorkerOptions(drain=True)).run()
    job.refresh_from_db()
    assert (job.status, begun) == ("completed", [])
