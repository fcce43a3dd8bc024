"""A job that is larger than a kernel or an engine takes is refused where it is given, and before it is launched."""

from __future__ import annotations

import shlex
import uuid
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from container_manager.conf import AppSettings
from container_manager.executors.base import Rejected
from container_manager.jobs.command import split_command
from container_manager.jobs.spec import JobSpec
from container_manager.models import ContainerJob
from container_manager.store import ClaimedJob
from container_manager.worker.launch_spec import launch_spec

pytestmark = pytest.mark.without_database

TOO_LARGE: dict[str, tuple[dict[str, Any], str, str]] = {
    "long word": ({"command": "echo " + "x" * 131_072}, "command", "Word 2 of the command has 131072 bytes"),
    "long word of two-byte letters": ({"command": "é" * 65_536}, "command", "has 131072 bytes; .* at most 131071"),
    "many words": ({"command": "x " * 220_000}, "command", "Command and environment have 2[0-9]+ bytes together"),
    "long variable": ({"environment": {"A": "x" * 131_070}}, "environment", "variable 'A' has 131072 bytes"),
    "large environment": (
        {"environment": {f"A{number}": "x" * 100_000 for number in range(200)}},
        "environment",
        "have 20[0-9]+ bytes together; a program can get at most 2097152",
    ),
    "long entrypoint": (
        {"image": "x", "container": {"entrypoint": "run '" + "x" * 131_072 + "'"}},
        "container",
        "Word 2 of the command has 131072 bytes",
    ),
    "deep folder": ({"working_directory": "/" + "a/" * 300}, "working_directory", "at most 255 names, not 300"),
    "long folder": ({"working_directory": "/" + "a" * 256}, "working_directory", "at most 255 bytes in one of"),
    "long label": ({"labels": {"team": "x" * 16_384}}, "labels", "labels have 16420 bytes"),
    "many labels": ({"labels": {str(number): "" for number in range(500)}}, "labels", "counting 32 more for each"),
    "endless cores": ({"cpu_count": 1e300}, "cpu_count", "less than or equal to 8192"),
    "endless time": ({"timeout_seconds": 2**62}, "timeout_seconds", "less than or equal to 2147483647"),
    "endless grace": ({"grace_seconds": 2**62}, "grace_seconds", "less than or equal to 2147483647"),
}
# The largest that are none of these.
LARGE: list[dict[str, Any]] = [
    {"command": "echo " + "x" * 131_071, "environment": {"A": "x" * 131_069}},
    {"environment": {f"A{number}": "x" * 100_000 for number in range(20)}},
    {"working_directory": "/" + "a/" * 255},
    {"working_directory": "/" + "a" * 255},
    {"labels": {"team": "x" * 16_348}},
    {"cpu_count": 8192, "timeout_seconds": 2**31 - 1, "grace_seconds": 2**31 - 1},
]


def clean(fields: dict[str, Any]) -> None:
    ContainerJob(**{"command": "true", **fields}).full_clean(validate_unique=False, validate_constraints=False)


def launch(fields: dict[str, Any]) -> None:
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(**{"command": "true", **fields}))
    launch_spec(job, AppSettings(secrets={"env:CM_SECRET_*": ""}), key="cm-i-0-1", is_wanted=lambda: True)


@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.shows("reference/executors.md#how-large-a-job-may-be")
def test_a_job_that_is_too_large_is_refused_when_it_is_submitted(name: str) -> None:
    fields, field, said = TOO_LARGE[name]
    with pytest.raises(ValidationError, match=said) as refusal:
        clean(fields)
    assert list(refusal.value.message_dict) == [field]


@pytest.mark.parametrize("name", [name for name, (_, field, _) in TOO_LARGE.items() if "endless" not in name])
@pytest.mark.shows("reference/executors.md#how-large-a-job-may-be")
def test_a_job_that_is_too_large_and_was_not_validated_is_refused_before_its_launch(name: str) -> None:
    fields, _, said = TOO_LARGE[name]
    with pytest.raises(Rejected, match=said) as refusal:
        launch(fields)
    assert refusal.value.reason == "start"


@pytest.mark.parametrize("fields", LARGE, ids="-".join)
@pytest.mark.shows("reference/executors.md#how-large-a-job-may-be")
def test_jobs_of_the_largest_allowed_size_are_accepted(fields: dict[str, Any]) -> None:
    clean(fields)
    launch(fields)


def test_a_secret_counts_towards_the_size_as_the_variable_that_it_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM_SECRET_LONG", "x" * 131_070)
    with pytest.raises(Rejected, match="variable 'A' has 131072 bytes"):
        launch({"secrets": {"A": "env:CM_SECRET_LONG"}})


def split_or_refuse(split: Any, text: str) -> list[str] | None:
    try:
        words: list[str] = split(text)
    except ValueError:
        return None
    return words


@given(st.text(st.sampled_from("ab'\"\\ \t\r\n#$é\0\u2003"), max_size=20))
def test_a_command_is_split_as_shlex_does(text: str) -> None:
    assert split_or_refuse(split_command, text) == split_or_refuse(shlex.split, text)


@pytest.mark.parametrize(
    "text",
    ["'{}'", "'{}", '"{}"', '"{}', "{}\\", "'a' {}'b'"],
    ids=["single", "open", "double", "open", "bare", "words"],
)
def test_long_quoted_commands_are_split_piece_by_piece(text: str) -> None:
    """The time of shlex grows with the square of the length: 16 s for a million characters, over a minute here."""
    words = split_or_refuse(split_command, text.format("x" * 2_000_000))
    assert words is None or max(map(len, words)) >= 2_000_000
