"""What a test needs of the machine: a missing part skips the test, or fails it where CM_TEST_REQUIRE is set."""

from __future__ import annotations

import os

import pytest

MISSING = "Missing: "


def require(part: str, present: object) -> None:
    """Skip if ``present`` is false, or fail where CM_TEST_REQUIRE is set.

    In a test or a fixture this concerns that test; at the top of a module, all tests of the module.
    """
    if present:
        return
    if os.environ.get("CM_TEST_REQUIRE"):
        pytest.fail(f"{MISSING}{part}. CM_TEST_REQUIRE asks for it.")
    pytest.skip(f"{MISSING}{part}", allow_module_level=True)
