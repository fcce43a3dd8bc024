"""What a test needs of the machine: missing, it skips the test with a reason, or fails it where CM_TEST_REQUIRE is set."""

from __future__ import annotations

import os

import pytest


def require(part: str, present: object) -> None:
    """Go on if ``present`` is true; else skip, or fail where everything must be there.

    In a test or a fixture it is about that test; at the top of a module, about all of the module.
    """
    if present:
        return
    if os.environ.get("CM_TEST_REQUIRE"):
        pytest.fail(f"{part} is not here, and CM_TEST_REQUIRE asks for it.")
    pytest.skip(f"{part} is not here.", allow_module_level=True)
