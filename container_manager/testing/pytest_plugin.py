"""Fixtures for pytest: ``pytest_plugins = ["container_manager.testing.pytest_plugin"]`` in the topmost ``conftest.py``.

It is no entry point of pytest: that would load it in every test run of an environment in which the package happens to
be installed, and let pytest rewrite the assertions of the whole package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

# Models cannot be imported before Django is set up, which may be after this.
if TYPE_CHECKING:
    from . import FakeJobs

pytest.register_assert_rewrite("container_manager.testing.conformance")


@pytest.fixture
def run_queued_jobs(db: None) -> Callable[..., Any]:
    """Return `container_manager.testing.run_queued_jobs`, in a test that may use the database."""
    from .inline import run_queued_jobs

    return run_queued_jobs


@pytest.fixture
def fake_jobs() -> Iterator[FakeJobs]:
    """Let every executor be a fake one during the test, and yield its `FakeJobs`; its ``script`` is an empty dict."""
    from .fake_executor import fake_jobs

    with fake_jobs({}) as fake:
        yield fake
