"""Wrong settings are named, each with what it should be."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from container_manager.conf import AppSettings, app_settings
from container_manager.executors.process import ProcessExecutor
from container_manager.executors.registry import build_executors


def test_without_settings_everything_has_a_default() -> None:
    assert app_settings() == AppSettings()


def test_entries_are_taken_and_lists_become_tuples() -> None:
    given = {"QUEUES": ["a", "b"], "RETRY": {"FACTOR": 3, "REASONS": ["oom"]}}
    with override_settings(CONTAINER_MANAGER=given):
        settings = app_settings()
    assert settings.queues == ("a", "b")
    assert (settings.retry.factor, settings.retry.reasons) == (3, ("oom",))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "must be a dict"),
        ({"EXECUTOR": {}}, "'EXECUTOR'] is no setting"),
        ({"EXECUTORS": {}}, "at least one alias"),
        ({"EXECUTORS": {"default": {}}}, "needs a 'BACKEND'"),
        ({"EXECUTORS": {"default": {"BACKEND": "x", "OPTION": {}}}}, "unknown keys"),
        ({"LEASE_SECONDS": 0}, "positive number"),
        ({"POLL_SECONDS": "1"}, "positive number"),
        ({"INSTALL": "with space"}, "letters, digits and hyphens"),
        ({"QUEUES": []}, "list of names"),
        ({"RETRY": {"MAX": 1}}, "'MAX'] is no setting"),
        ({"RETRY": {"FACTOR": -1}}, "positive number"),
        ({"RETRY": {"REASONS": "oom"}}, "list of failure reasons"),
    ],
)
def test_a_wrong_entry_is_named(given: Any, text: str) -> None:
    with override_settings(CONTAINER_MANAGER=given), pytest.raises(ImproperlyConfigured, match=text):
        app_settings()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"BACKEND": "no.such.Class"}, "cannot be imported"),
        ({"BACKEND": "pathlib.Path"}, "is not an Executor"),
        ({"BACKEND": "container_manager.executors.process.ProcessExecutor", "OPTIONS": {"x": 1}}, "OPTIONS"),
    ],
)
def test_a_wrong_executor_is_named(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        build_executors(AppSettings(executors={"default": entry}))


def test_the_default_executor_runs_local_processes() -> None:
    executors = build_executors(AppSettings())
    try:
        assert isinstance(executors["default"], ProcessExecutor)
    finally:
        executors["default"].close()
