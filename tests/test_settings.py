"""Wrong settings are named, each with what it should be."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import override_settings

from container_manager.checks import check_sqlite
from container_manager.conf import PROCESS_EXECUTOR, AppSettings, app_settings
from container_manager.executors.process import ProcessExecutor
from container_manager.executors.registry import build_executors

# Django 6.1's checks look at the database.
pytestmark = pytest.mark.django_db(databases="__all__")


def test_every_setting_has_a_default() -> None:
    assert app_settings() == AppSettings()


def test_settings_are_read_and_lists_become_tuples() -> None:
    given = {"QUEUES": ["a", "b"], "RETRY": {"FACTOR": 3, "REASONS": ["oom"]}}
    with override_settings(CONTAINER_MANAGER=given):
        settings = app_settings()
    assert settings.queues == ("a", "b")
    assert (settings.retry.factor, settings.retry.reasons) == (3, ("oom",))


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "must be a dict"),
        ({"EXECUTOR": {}}, "'EXECUTOR'] is no setting"),
        ({"EXECUTORS": {}}, "at least one alias"),
        ({"EXECUTORS": {"default": {}}}, "needs a 'BACKEND'"),
        ({"EXECUTORS": {"default": {"BACKEND": "x", "OPTION": {}}}}, "unknown keys"),
        ({"EXECUTORS": {"default": {"BACKEND": "x", "LIMITS": 5}}}, "LIMITS'] must be a dict"),
        (
            {"EXECUTORS": {"default": {"BACKEND": "x", "LIMITS": {"timeout": 5}}}},
            "has no 'timeout'. Known: timeout_sec",
        ),
        (
            {"EXECUTORS": {"default": {"BACKEND": "x", "LIMITS": {"max_retries": -1}}}},
            "whole number, 0 or more, or None",
        ),
        ({"EXECUTORS": {"default": {"BACKEND": "x", "LIMITS": {"grace_seconds": True}}}}, "whole number, 0 or more"),
        ({"LEASE_SECONDS": 0}, "positive number"),
        ({"POLL_SECONDS": "1"}, "positive number"),
        ({"STATISTICS_DAYS": 1e9}, "at most 36500"),
        ({"STATISTICS_DAYS": 0}, "positive number"),
        ({"AUDIT_DAYS": 1e9}, "'AUDIT_DAYS'] must be at most 36500"),
        ({"AUDIT_DAYS": 0}, "positive number"),
        ({"LEASE_SECONDS": float("inf")}, "positive number"),
        ({"LOG_LIMIT_BYTES": 1e6}, "whole positive number, not 1000000.0"),
        ({"PRUNE_AFTER_SECONDS": -1}, "or None for never"),
        ({"UNSCHEDULABLE_AFTER_SECONDS": 0}, "or None for never"),
        ({"RETRY": {"FREE_LOSSES": 1.5}}, "must be a whole number, 0 or more, not 1.5"),
        ({"RETRY": {"FREE_LOSSES": -1}}, "must be a whole number, 0 or more, not -1"),
        ({"INSTALL": "with space"}, "letters, digits and hyphens"),
        ({"QUEUES": []}, "list of names"),
        ({"RETRY": {"MAX": 1}}, "'MAX'] is no setting"),
        ({"RETRY": {"FACTOR": -1}}, "positive number"),
        ({"RETRY": {"REASONS": "oom"}}, "list of failure reasons"),
    ],
)
def test_a_wrong_setting_is_named(given: Any, text: str) -> None:
    with override_settings(CONTAINER_MANAGER=given):
        with pytest.raises(ImproperlyConfigured, match=text):
            app_settings()
        assert any(text in message.msg for message in run_checks() if message.id == "container_manager.E010")


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"BACKEND": "no.such.Class"}, "cannot be imported"),
        ({"BACKEND": "pathlib.Path"}, "is not an Executor"),
        ({"BACKEND": "container_manager.executors.process.ProcessExecutor", "OPTIONS": {"x": 1}}, "OPTIONS"),
    ],
)
def test_a_wrong_executor_entry_is_named(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        build_executors(AppSettings(executors={"default": entry}))


def test_a_check_names_an_executor_class_that_cannot_be_imported() -> None:
    with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"far": {"BACKEND": "no.such.Class"}}}):
        assert [message.id for message in run_checks()] == ["container_manager.E011"]


@pytest.mark.shows("howto/docker.md#let-others-submit-jobs")
def test_a_deployment_check_warns_that_local_processes_are_not_isolated() -> None:
    found = run_checks(tags=["security"], include_deployment_checks=True)
    assert "container_manager.W001" in [message.id for message in found]
    with override_settings(DEBUG=True):
        found = run_checks(tags=["security"], include_deployment_checks=True)
        assert "container_manager.W001" not in [message.id for message in found]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="It is about SQLite.")
def test_a_check_warns_about_sqlite_without_immediate_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [message.id for message in check_sqlite(None, databases=["default"])] == []
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})
    assert [message.id for message in check_sqlite(None, databases=["default"])] == ["container_manager.W002"]


def test_the_default_executor_runs_local_processes() -> None:
    executors = build_executors(AppSettings())
    try:
        assert isinstance(executors["default"], ProcessExecutor)
    finally:
        executors["default"].close()


@pytest.mark.shows("howto/docker.md#run-jobs-in-containers")
def test_each_database_has_its_own_installation_name() -> None:
    settings = AppSettings(install="shop")
    assert settings.for_database("default") is settings
    assert settings.for_database("archive").install == "shop-archive"


DOCKER = "container_manager.executors.docker.DockerExecutor"
KUBERNETES = "container_manager.executors.kubernetes.KubernetesExecutor"


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"EXECUTORS": {"default": {"BACKEND": PROCESS_EXECUTOR, "OPTIONS": {"x": 1}}}}, "'x'"),
        (
            {"EXECUTORS": {"default": {"BACKEND": PROCESS_EXECUTOR, "OPTIONS": {"ignore_isolation": "no"}}}},
            "'ignore_isolation' must be true or false, not 'no'",
        ),
        (
            {"EXECUTORS": {"default": {"BACKEND": PROCESS_EXECUTOR, "OPTIONS": {"open_files": 1e3}}}},
            "'open_files' must be a whole positive number, not 1000.0",
        ),
        (
            {"EXECUTORS": {"default": {"BACKEND": PROCESS_EXECUTOR, "OPTIONS": {"inherit_environment": "HOME"}}}},
            "'inherit_environment' must be a list of names, not 'HOME'",
        ),
        ({"EXECUTORS": {"far": {"BACKEND": DOCKER}}}, "Executor 'far': .*'INSTALL'\\] must name this installation"),
        ({"EXECUTORS": {"far": {"BACKEND": DOCKER}}, "INSTALL": "default"}, "'INSTALL'\\] must name"),
        ({"EXECUTORS": {"far": {"BACKEND": KUBERNETES}}}, "Executor 'far': .*'INSTALL'\\] must name this installation"),
        (
            {"EXECUTORS": {"far": {"BACKEND": KUBERNETES, "OPTIONS": {"image": []}}}, "INSTALL": "a"},
            r"\['far'\]\['OPTIONS'\]: a Kubernetes executor has no option 'image'; known: kubeconfig",
        ),
        (
            {"EXECUTORS": {"far": {"BACKEND": KUBERNETES, "OPTIONS": {"pull": "often"}}}, "INSTALL": "a"},
            "Executor 'far': The option 'pull' must be one of missing, always, never, not 'often'",
        ),
        (
            {"EXECUTORS": {"far": {"BACKEND": DOCKER, "OPTIONS": {"image": []}}}, "INSTALL": "a"},
            "Executor 'far': .*no option 'image'",
        ),
        (
            {"EXECUTORS": {"far": {"BACKEND": DOCKER, "OPTIONS": {"base_url": "tcp://far:2375"}}}, "INSTALL": "a"},
            "without 'tls'",
        ),
    ],
)
@pytest.mark.shows("howto/docker.md#run-jobs-in-containers", "howto/docker.md#reach-a-daemon-elsewhere")
def test_a_check_names_wrong_executor_options_without_contacting_the_engine(given: Any, text: str) -> None:
    with override_settings(CONTAINER_MANAGER=given):
        found = [message for message in run_checks() if message.id == "container_manager.E012"]
        assert len(found) == 1
        assert re.search(text, found[0].msg)
        with pytest.raises(ImproperlyConfigured, match=text):
            build_executors(app_settings())


def test_a_check_accepts_valid_options_of_an_unreachable_engine() -> None:
    options = {"base_url": "unix:///nowhere/docker.sock", "images": ["busybox"]}
    given = {"EXECUTORS": {"default": {"BACKEND": DOCKER, "OPTIONS": options}}, "INSTALL": "a"}
    with override_settings(CONTAINER_MANAGER=given):
        assert not [
            message for message in run_checks() if message.id in ("container_manager.E011", "container_manager.E012")
        ]


def test_a_missing_docker_sdk_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("container_manager.executors.docker")]:
        monkeypatch.delitem(sys.modules, name)
    # So that importing it fails.
    monkeypatch.setitem(sys.modules, "docker", None)
    with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"default": {"BACKEND": DOCKER}}, "INSTALL": "a"}):
        found = [message for message in run_checks() if message.id == "container_manager.E011"]
    assert "pip install 'django-container-manager[docker]'" in found[0].msg
