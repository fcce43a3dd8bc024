"""What a job or a caller hands over as JSON is stored by every database, or refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from container_manager.jobs.json_value import MOST_LEVELS, json_text, parsed_json

pytestmark = pytest.mark.without_database


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, "", "grün 🌱", [], {}, {"a": [1, {"b": None}]}, 10**300, nested(MOST_LEVELS)]
)
def test_an_accepted_json_value_is_read_back_unchanged(value: Any) -> None:
    assert json.loads(json_text(value, most_bytes=1000)) == value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "no JSON"),
        (float("inf"), "no JSON"),
        ({1, 2}, "no JSON"),
        ({(1, 2): 3}, "no JSON"),
        (b"bytes", "no JSON"),
        ("a\0b", "x00"),
        ({"a\0b": 1}, "x00"),
        ("\ud800", "ud800"),
        (nested(MOST_LEVELS + 1), "levels"),
        (nested(5000), "levels"),
        ("x" * 1000, "1002 bytes, and 1000 are allowed"),
    ],
)
def test_a_refused_json_value_is_named(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        json_text(value, most_bytes=1000)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"\xff", "UTF-8"),
        (b"{'a': 1}", "no JSON"),
        (b"1 2", "no JSON"),
        (b"[" * 60_000, "levels"),
        (b"9" * 5000, "no JSON"),
    ],
)
def test_a_text_that_is_no_json_is_refused_with_an_explanation(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parsed_json(data)


def test_a_number_beyond_what_a_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        json_text(parsed_json(b"1e999"), most_bytes=100)
