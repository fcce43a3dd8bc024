"""Pages that ASGI serves on PostgreSQL look as soon as something has changed, whatever their interval is."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from django.db import connection

from container_manager.queue import enqueue

from ..ports import free_port
from ..prerequisites import require
from ..workers import worker
from .conftest import ALL_AND_SECRETS, expect, serving
from .test_job_page import Visit, badge, url, waits_for

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has notifications."),
]
# The page never looks by itself again.
_NO_TIMERS = "const real = setTimeout; window.setTimeout = (call, ms) => (ms < 1000 ? real(call, ms) : 0);"


@pytest.fixture(scope="module")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the tests' site by ASGI; give its address."""
    require("An ASGI server (the extra `browser`)", find_spec("uvicorn"))
    port = free_port()
    command = ["uvicorn", "tests.browser.asgi:application", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, port, tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@pytest.mark.shows("howto/dashboard.md#pages-that-are-told-of-changes")
def test_a_page_is_notified_of_each_transition_of_its_job(visit: Visit, tmp_path: Path) -> None:
    job = enqueue(command=f"sh -c '{waits_for(tmp_path, 'go')}; echo the end'")
    page = visit(*ALL_AND_SECRETS)
    page.add_init_script(_NO_TIMERS)
    with page.expect_response("**/jobs/changes/"):
        page.goto(url(job))
    expect(badge(page)).to_have_text("Queued")
    with worker("--slots", "1", log=tmp_path / "log"):
        expect(badge(page)).to_have_text("Running")
        (tmp_path / "go").touch()
        expect(badge(page)).to_have_text("Completed")
