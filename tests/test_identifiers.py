"""Keys are in the order in which they were made."""

from __future__ import annotations

import time

import pytest

from container_manager.jobs.identifiers import uuid7

pytestmark = pytest.mark.without_database


def test_primary_keys_are_uuid_version_7_and_contain_the_time() -> None:
    before = time.time_ns() // 1_000_000
    key = uuid7()
    assert (key.version, key.variant) == (7, "specified in RFC 4122")
    assert before <= key.int >> 80 <= time.time_ns() // 1_000_000


def test_later_primary_keys_are_greater() -> None:
    keys = []
    for _ in range(100):
        keys.append(uuid7())
        made = time.time_ns()
        while time.time_ns() < made + 1000:
            pass  # the order holds between keys that are a microsecond apart
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
