"""Metrics and health, as Prometheus and a load balancer ask for them: by HTTP, of a running server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import OperationalError, connection
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import Sample
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from container_manager import queue
from container_manager.conf import setting_problems
from container_manager.models import ContainerJob, QueueSpan, Worker
from container_manager.monitoring import views
from container_manager.monitoring.collector import JobsCollector

from .jobs import job_in
from .protocol.records import register
from .test_statistics import counted

urlpatterns = [path("monitoring/", include("container_manager.monitoring.urls"))]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]
ROOT = Path(__file__).resolve().parent.parent
_TOKEN = "a token of the tests"


@pytest.fixture(autouse=True)
def token(tmp_path: Path) -> Iterator[Path]:
    """Name a file with the token in the settings."""
    file = tmp_path / "token"
    file.write_text(_TOKEN + "\n", encoding="utf-8")
    with override_settings(CONTAINER_MANAGER={"MONITORING_TOKEN": str(file)}):
        yield file


def get(server: Any, name: str, *, bearer: str | None = _TOKEN, **headers: str) -> tuple[int, str, Any]:
    """Return status, body and headers of an answer."""
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    request = Request(f"{server.url}/monitoring/{name}", headers=headers)  # noqa: S310  # the tests' own server
    try:
        with urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode(), answer.headers
    except HTTPError as error:
        return error.code, error.read().decode(), error.headers


def samples(text: str, parse: Any = parse_text) -> list[Sample]:
    return [sample for family in parse(text) for sample in family.samples]


def value(found: list[Sample], name: str, **labels: str) -> float:
    [one] = [each.value for each in found if each.name == f"container_manager_{name}" and each.labels == labels]
    return one


def some_activity() -> None:
    """Have jobs in queues, minutes counted, and workers."""
    for _ in range(2):
        queue.enqueue(command="true", queue="mail")
    queue.enqueue(command="true", queue="mail", scheduled_for=timezone.now() + timedelta(hours=1))
    job_in("running", queue="mail").mark_as_failed(should_retry=True)
    started = job_in("queued", queue='odd "name"\\')
    started.mark_as_running()
    started.mark_as_completed()
    queue.pause_queue("paused")
    counted()
    register("a worker", executors=["default"])


def test_metrics_are_those_of_the_database_in_the_format_of_prometheus(live_server: Any) -> None:
    some_activity()
    status, text, headers = get(live_server, "metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    found = samples(text)
    assert value(found, "jobs", status="queued") == 3
    assert value(found, "jobs", status="completed") == 1
    assert value(found, "queue_jobs", queue="mail", status="queued") == 2
    assert value(found, "queue_jobs", queue="mail", status="scheduled") == 1
    assert value(found, "queue_jobs", queue="mail", status="retrying") == 1
    assert value(found, "queue_oldest_seconds", queue="mail") > 0
    assert value(found, "queue_paused", queue="paused") == 1
    odd = 'odd "name"\\'
    assert value(found, "attempts_started_total", queue=odd) == 1
    assert value(found, "attempts_completed_total", queue=odd) == 1
    assert (
        value(found, "attempts_failed_total", queue="mail"),
        value(found, "attempts_retried_total", queue="mail"),
    ) == (1, 1)
    assert value(found, "wait_seconds_count", queue=odd) == 1
    assert value(found, "run_seconds_bucket", queue=odd, le="+Inf") == 1
    assert value(found, "run_seconds_sum", queue=odd) >= 0
    assert value(found, "worker_lease_seconds", worker="a worker", host="h") > 0
    assert value(found, "engine_away", executor="default") == 0
    assert value(found, "statistics_uncounted_rows") == 0
    Worker.objects.update(engines_away={"default": timezone.now().isoformat()})
    assert value(samples(get(live_server, "metrics")[1]), "engine_away", executor="default") == 1


def test_metrics_are_in_openmetrics_format_if_the_request_accepts_it(live_server: Any) -> None:
    some_activity()
    accept = "application/openmetrics-text; version=1.0.0"
    _, text, headers = get(live_server, "metrics", Accept=accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert value(samples(text, parse_openmetrics), "attempts_started_total", queue='odd "name"\\') == 1


def test_counters_do_not_fall_when_spans_and_jobs_are_pruned(live_server: Any) -> None:
    some_activity()
    before = samples(get(live_server, "metrics")[1])
    QueueSpan.objects.exclude(length=QueueSpan.TOTAL).delete()
    ContainerJob.objects.all().delete()
    counted()
    after = samples(get(live_server, "metrics")[1])
    totals = [each for each in before if each.name.endswith(("_total", "_bucket", "_count"))]
    assert totals
    assert [each for each in after if each.name.endswith(("_total", "_bucket", "_count"))] == totals


def test_the_collector_works_in_another_registry_and_queries_nothing_before_it_is_scraped(
    django_assert_num_queries: Any,
) -> None:
    registry = CollectorRegistry()
    with django_assert_num_queries(0):
        registry.register(JobsCollector(using="default"))
    some_activity()
    assert registry.get_sample_value("container_manager_attempts_started_total", {"queue": 'odd "name"\\'}) == 1


@pytest.mark.without_database
class TestMetricsAccess:
    @pytest.mark.parametrize("name", ["metrics", "health"])
    @pytest.mark.parametrize("bearer", [None, "", "another", _TOKEN + "x", "tökén"])
    def test_metrics_and_health_are_refused_without_the_token(
        self, live_server: Any, name: str, bearer: str | None
    ) -> None:
        status, text, headers = get(
            live_server, name, bearer=bearer if bearer is None else bearer.encode().decode("latin-1")
        )
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "MONITORING_TOKEN" in text

    @pytest.mark.parametrize("name", ["metrics", "health"])
    def test_without_a_token_in_the_settings_every_token_is_refused(self, live_server: Any, name: str) -> None:
        with override_settings(CONTAINER_MANAGER={}):
            for bearer in ("", "None", _TOKEN):
                assert get(live_server, name, bearer=bearer)[0] == 401

    def test_an_empty_or_missing_token_file_grants_no_access(self, live_server: Any, token: Path) -> None:
        token.write_text("\n", encoding="utf-8")
        assert get(live_server, "health", bearer="")[0] == 401
        token.unlink()
        assert get(live_server, "health")[0] == 401

    def test_a_replaced_token_is_valid_from_the_next_request_on(self, live_server: Any, token: Path) -> None:
        token.write_text("a new one", encoding="utf-8")
        assert get(live_server, "metrics")[0] == 401
        assert get(live_server, "metrics", bearer="a new one")[0] == 200

    def test_a_token_may_be_a_variable(self, live_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CM_MONITORING_TOKEN", "of a variable")
        with override_settings(CONTAINER_MANAGER={"MONITORING_TOKEN": "env:CM_MONITORING_TOKEN"}):
            assert get(live_server, "metrics", bearer="of a variable")[0] == 200
            assert get(live_server, "metrics", bearer=_TOKEN)[0] == 401

    def test_only_users_who_may_view_jobs_see_metrics(self) -> None:
        user = User.objects.create_user("alice")
        client = Client()
        client.force_login(user)
        assert client.get("/monitoring/metrics").status_code == 403
        content_type = ContentType.objects.get_for_model(ContainerJob)
        permission, _ = Permission.objects.get_or_create(content_type=content_type, codename="view_containerjob")
        user.user_permissions.add(permission)
        assert client.get("/monitoring/metrics").status_code == 200
        assert client.post("/monitoring/metrics").status_code == 405

    @pytest.mark.parametrize("token", ["", "the token itself", "file:token", "env:CM_SECRET_X", "../token", 7])
    def test_an_error_of_the_token_setting_does_not_show_the_token(self, token: Any) -> None:
        with override_settings(CONTAINER_MANAGER={"MONITORING_TOKEN": token}):
            [problem] = setting_problems()
        assert "MONITORING_TOKEN" in problem
        assert "the token itself" not in problem


class TestHealth:
    def report(self, server: Any) -> tuple[int, list[str]]:
        status, text, headers = get(server, "health")
        assert headers["Content-Type"] == "application/json"
        assert "no-store" in headers["Cache-Control"]
        return status, json.loads(text)["reasons"]

    def test_health_is_ok_with_a_live_worker_however_long_its_queue(self, live_server: Any) -> None:
        register("w", executors=["default"])
        old = queue.enqueue(command="true")
        ContainerJob.objects.filter(pk=old.pk).update(queued_at=timezone.now() - timedelta(hours=1))
        assert self.report(live_server) == (200, [])

    def test_health_fails_without_a_live_worker(self, live_server: Any) -> None:
        register("w", executors=["default"])
        Worker.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
        status, [reason] = self.report(live_server)
        assert status == 503
        assert reason.startswith("No worker is alive")

    def test_health_fails_when_no_worker_serves_a_due_job(self, live_server: Any) -> None:
        register("w", executors=["default"])
        job = queue.enqueue(command="true", executor="gpu", queue="q")
        assert self.report(live_server) == (200, [])
        ContainerJob.objects.filter(pk=job.pk).update(queued_at=timezone.now() - timedelta(hours=1))
        status, [reason] = self.report(live_server)
        assert status == 503
        assert "'gpu' in queue 'q'" in reason
        queue.pause_queue("q")
        assert self.report(live_server) == (200, [])

    def test_health_fails_without_the_database_and_the_reason_names_no_host(self) -> None:
        request = RequestFactory().get("/", headers={"Authorization": f"Bearer {_TOKEN}"})

        def refuse(*_: object) -> None:
            raise OperationalError("no route to db.internal")

        with connection.execute_wrapper(refuse):
            answer = views.health(request)
        report = json.loads(answer.content)
        assert answer.status_code == 503
        assert report["reasons"] == ["The database does not answer: OperationalError."]


# -- the files that the docs bring ---------------------------------------------------------------------------------


def exposed_names() -> set[str]:
    """Return the names that a scrape has, with those of histograms' parts."""
    some_activity()
    queue.enqueue(command="true", executor="nobody's", queue="mail")
    registry = CollectorRegistry()
    registry.register(JobsCollector())
    return {sample.name for family in registry.collect() for sample in family.samples}


def names_in(text: str) -> set[str]:
    return set(re.findall(r"container_manager_\w+", text))


@pytest.mark.shows("howto/monitoring.md#a-grafana-dashboard")
def test_the_grafana_dashboard_shows_existing_metrics() -> None:
    text = (ROOT / "docs/howto/grafana-dashboard.json").read_text(encoding="utf-8")
    panels = json.loads(text)["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) >= 8
    used = set().union(*map(names_in, expressions))
    assert used <= exposed_names()


@pytest.mark.shows("howto/monitoring.md#alerts")
def test_the_alerts_use_existing_metrics() -> None:
    rules = yaml.safe_load((ROOT / "docs/howto/prometheus-alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert all({"alert", "expr", "for", "labels", "annotations"} <= set(rule) for rule in alerts)
    used = set().union(*(names_in(rule["expr"]) for rule in alerts))
    assert used
    assert used <= exposed_names()


@pytest.mark.shows("howto/monitoring.md#metrics")
def test_the_monitoring_page_lists_every_metric_and_no_other() -> None:
    page = (ROOT / "docs/howto/monitoring.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(container_manager_\w+)`", page, re.M))
    parts = re.compile("_(bucket|sum|count)$")
    assert listed == {parts.sub("", name) for name in exposed_names()}
