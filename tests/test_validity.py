"""What is wrong with a job's values is wrong for who submits it and for the worker that launches it, in the same words."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from container_manager.conf import AppSettings
from container_manager.executors.base import LaunchSpec, Rejected
from container_manager.jobs.spec import TEXT_MAPPINGS, JobSpec
from container_manager.jobs.validity import FIELD_CHECKS, InvalidField, check_job
from container_manager.models import ContainerJob
from container_manager.store import ClaimedJob
from container_manager.worker.launch_spec import launch_spec

pytestmark = pytest.mark.without_database

INVALID: dict[str, tuple[str, dict[str, Any], str]] = {
    "command without an end of its quotes": ("command", {"command": "echo 'oops"}, "The quoting is broken"),
    "nothing to run": ("command", {"command": " "}, "It is empty"),
    "request that is unknown": ("container", {"container": {"privileged": True}}, "'privileged' is not known"),
    "no cores": ("cpu_count", {"cpu_count": 0.0}, "A finite number above zero"),
    "negative cores": ("cpu_count", {"cpu_count": -1.0}, "A finite number above zero"),
    "cores that are no number": ("cpu_count", {"cpu_count": float("nan")}, "A finite number above zero"),
    "variables as a list": ("environment", {"environment": []}, "It must be a JSON object of strings, not list"),
    "variable that is a number": ("environment", {"environment": {"A": 1}}, "A JSON object of strings"),
    "variable that is null": ("environment", {"environment": {"A": None}}, "A JSON object of strings"),
    "variable of two lines": ("environment", {"environment": {"A": "x\ny"}}, "more than one line"),
    "secrets as null": ("secrets", {"secrets": None}, "It must be a JSON object of strings, not NoneType"),
    "secret that is a number": ("secrets", {"secrets": {"A": 1}}, "A JSON object of strings"),
    "secret for no variable": ("secrets", {"secrets": {"A=B": "env:CM_SECRET_A"}}, "cannot be the name"),
    "secret file elsewhere": ("secret_files", {"secret_files": {"../a": "env:CM_SECRET_A"}}, "cannot be a secret's file"),
    "secret file that is a list": ("secret_files", {"secret_files": {"a": []}}, "A JSON object of strings"),
    "label that is a number": ("labels", {"labels": {"team": 5}}, "A JSON object of strings"),
    "label that moves the cursor": ("labels", {"labels": {"team": "\x1b[2J"}}, r"character '\x1b' at position 1"),
    "label whose name moves the cursor": ("labels", {"labels": {"te\u202eam": ""}}, r"character '\u202e' at position 3"),
    "label that is large": ("labels", {"labels": {"team": "x" * 16_384}}, "labels have 16420 bytes"),
    "folder that is deep": ("working_directory", {"working_directory": "/a" * 256}, "at most 255 names"),
}  # fmt: skip


def launched(fields: dict[str, Any]) -> LaunchSpec:
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(**{"command": "true", **fields}))
    return launch_spec(job, AppSettings(secrets={"env:CM_SECRET_*": ""}), key="cm-i-0-1", is_wanted=lambda: True)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_of_a_job_is_refused_when_it_is_submitted(name: str) -> None:
    field, fields, said = INVALID[name]
    with pytest.raises(ValidationError) as refusal:
        ContainerJob(**{"command": "true", **fields}).clean()
    assert list(refusal.value.message_dict) == [field]
    assert said in refusal.value.message_dict[field][0]


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_that_was_not_validated_is_refused_at_the_launch(name: str) -> None:
    field, fields, said = INVALID[name]
    with pytest.raises(Rejected) as refusal:
        launched(fields)
    assert refusal.value.reason == "start"
    assert f"The job's column {field!r} is wrong." in str(refusal.value)
    assert said in str(refusal.value)


def test_each_job_field_with_a_check_has_an_invalid_value_in_these_tests() -> None:
    assert {field for field, _, _ in INVALID.values()} == {
        "command",
        "container",
        *(field for field, _ in FIELD_CHECKS),
    }


def test_an_entrypoint_and_a_command_that_are_too_large_together_are_refused_when_they_are_submitted() -> None:
    words = " ".join(["x" * 100_000] * 11)
    fields = {"image": "x", "command": words, "container": {"entrypoint": words}}
    with pytest.raises(ValidationError, match=r"Command and environment have 2[0-9]+ bytes together"):
        ContainerJob(**fields).clean()
    with pytest.raises(Rejected, match=r"Command and environment have 2[0-9]+ bytes together"):
        launched(fields)


def test_a_word_that_is_too_long_is_counted_from_the_first_of_the_command() -> None:
    job = ContainerJob(image="x", command="x" * 140_000, container={"entrypoint": "sh -c"})
    with pytest.raises(ValidationError, match="Word 1 of the command has 140000 bytes"):
        job.clean()


def test_every_mapping_of_texts_has_a_check() -> None:
    assert set(TEXT_MAPPINGS) <= {field for field, _ in FIELD_CHECKS}


def test_a_job_that_is_valid_passes_and_its_launch_has_its_values() -> None:
    fields = {
        "command": "echo 'a b'",
        "environment": {"A": "1"},
        "labels": {"team": "Ω"},
        "working_directory": "/tmp",  # noqa: S108
        "cpu_count": 0.5,
    }
    ContainerJob(**fields).clean()
    launch = launched(fields)
    assert launch.argv == ("echo", "a b")
    assert launch.environment["A"] == "1"


def test_the_first_invalid_field_of_a_job_is_named() -> None:
    with pytest.raises(InvalidField) as refusal:
        check_job(JobSpec(command="true", environment={"": ""}, labels={"a": "\0"}))
    assert refusal.value.field == "environment"
