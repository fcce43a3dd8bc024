"""Pages that ASGI serves on PostgreSQL are told of changes; all others look for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.db import connection, connections
from django.test import Client

from container_manager import queue
from container_manager.dashboard import changes
from container_manager.dashboard.access import Act
from container_manager.models import ContainerJob

from .dashboard_users import user_who_may
from .patience import PATIENCE_SECONDS
from .workers import worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.shows("howto/dashboard.md#pages-that-are-told-of-changes"),
]
_PATH = "/jobs/changes/"
only_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has notifications.")


@pytest.fixture(autouse=True)
def _only_notifications(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing but a notification ends a wait, as far as a test does not say otherwise."""
    waiters = changes.Waiters()
    for name, value in (("_waiters", waiters), ("_HOLD_SECONDS", 1e6), ("_ANSWER_SECONDS", 1e6)):
        monkeypatch.setattr(changes, name, value)
    yield
    waiters.close()


def cookies_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())


async def get(path: str, cookies: str = "") -> tuple[int, str]:
    """Ask Django as an ASGI server does; return the status and the body."""
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": path, "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"cookie", cookies.encode())],
    }  # fmt: skip
    asked = ApplicationCommunicator(get_asgi_application(), scope)
    await asked.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await asked.receive_output(PATIENCE_SECONDS)
    body = (await asked.receive_output(PATIENCE_SECONDS))["body"]
    await asked.wait(PATIENCE_SECONDS)
    return start["status"], body.decode()


def run(asked: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(asked)
    finally:
        connections.close_all()


def in_a_thread(call: Any, *arguments: Any) -> Coroutine[Any, Any, Any]:
    def called() -> Any:
        try:
            return call(*arguments)
        finally:
            connections.close_all()

    return asyncio.to_thread(called)


@only_postgresql
def test_a_request_waits_until_a_job_is_enqueued() -> None:
    cookies = cookies_of(user_who_may(Act.VIEW))

    async def wait() -> None:
        # What changed before it listened is not known, so the first answer comes at once.
        assert (await get(_PATH, cookies))[0] == 200
        waiting = [asyncio.create_task(get(_PATH, cookies)) for _ in range(3)]
        while len(changes._waiters._waiting) < len(waiting):
            await asyncio.sleep(0.01)  # until all are there
        await in_a_thread(lambda: queue.enqueue(command="true"))
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 3

    run(wait())


@only_postgresql
def test_a_worker_tells_of_each_step_of_a_job(tmp_path: Path) -> None:
    cookies, gate = cookies_of(user_who_may(Act.VIEW)), tmp_path / "gate"
    job = queue.enqueue(command=f"sh -c 'until [ -e {gate} ]; do sleep 0.05; done'")

    def status() -> str:
        return ContainerJob.objects.values_list("status", flat=True).get(pk=job.pk)

    async def follow() -> None:
        # From here on it listens.
        assert (await get(_PATH, cookies))[0] == 200
        seen = await in_a_thread(status)
        for wanted in ("running", "completed"):
            while seen != wanted:
                assert (await get(_PATH, cookies))[0] == 200
                seen = await in_a_thread(status)
            gate.touch()

    with worker(log=tmp_path / "log"):
        run(follow())


def test_requests_of_a_loop_that_was_closed_keep_no_others_waiting() -> None:
    closed, waiters = asyncio.new_event_loop(), changes.Waiters()
    closed.close()

    async def wait() -> None:
        here = asyncio.Event()
        waiters._waiting = {
            asyncio.Event(): ("default", closed),
            here: ("default", asyncio.get_running_loop()),
        }
        await asyncio.to_thread(waiters._wake, "default")
        await asyncio.wait_for(here.wait(), PATIENCE_SECONDS)

    run(wait())


@only_postgresql
def test_a_wait_without_a_change_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_HOLD_SECONDS", 0.2)
    cookies = cookies_of(user_who_may(Act.VIEW))

    async def wait() -> list[int]:
        return [(await get(_PATH, cookies))[0] for _ in range(2)]

    assert run(wait())[-1] == 204
    assert changes._waiters._waiting == {}


@only_postgresql
def test_who_may_view_no_jobs_is_told_nothing() -> None:
    assert run(get(_PATH))[0] == 403
    assert run(get(_PATH, cookies_of(User.objects.create_user("nobody"))))[0] == 403
    assert changes._waiters._listeners == {}


def test_a_page_waits_only_where_it_may() -> None:
    user = user_who_may(Act.VIEW)
    client = Client()
    client.force_login(user)
    # Here a request that waits would take a thread.
    assert client.get(_PATH).status_code == 404
    assert "data-live-changes" not in client.get("/jobs/workers/").content.decode()
    status, page = run(get("/jobs/workers/", cookies_of(user)))
    assert status == 200
    assert (f'data-live-changes="{_PATH}"' in page) is (connection.vendor == "postgresql")
    if connection.vendor != "postgresql":
        assert run(get(_PATH, cookies_of(user)))[0] == 404
