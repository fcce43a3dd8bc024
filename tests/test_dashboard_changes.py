"""Pages that ASGI serves on PostgreSQL are told of changes; all others look for them."""

from __future__ import annotations

import asyncio
import json
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
from .polling import PATIENCE_SECONDS, eventually
from .workers import worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.shows("howto/dashboard.md#pages-that-are-told-of-changes"),
]
_PATH = "/jobs/changes/"
only_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has notifications.")


class Waiters(changes.Waiters):
    """Counts how often requests were woken."""

    wakes = 0

    def _wake(self, using: str) -> None:
        super()._wake(using)
        self.wakes += 1


@pytest.fixture(autouse=True)
def waiters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiters]:
    """Nothing but a notification ends a wait, as far as a test does not say otherwise."""
    waiters = Waiters()
    for name, value in (("_waiters", waiters), ("_HOLD_SECONDS", 1e6), ("_ANSWER_SECONDS", 1e6)):
        monkeypatch.setattr(changes, name, value)
    yield waiters
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


async def begin_to_listen(waiters: Waiters, cookies: str) -> None:
    """Have the first request answered, and the hints of the beginning behind."""
    # What changed before it listened is not known, so the first answer comes at once.
    assert (await get(_PATH, cookies))[0] == 200
    # It hints of jobs that are ready and of jobs that were cancelled.
    await asyncio.to_thread(eventually, lambda: waiters.wakes >= 2)


@only_postgresql
def test_a_long_poll_returns_when_a_job_is_enqueued(waiters: Waiters) -> None:
    cookies = cookies_of(user_who_may(Act.VIEW))

    async def wait() -> None:
        await begin_to_listen(waiters, cookies)
        waiting = [asyncio.create_task(get(_PATH, cookies)) for _ in range(3)]
        while len(waiters._waiting) < len(waiting):
            await asyncio.sleep(0.01)  # until all are there
        await in_a_thread(lambda: queue.enqueue(command="true"))
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 3

    run(wait())


@only_postgresql
def test_a_worker_notifies_pages_of_each_transition_of_a_job(waiters: Waiters, tmp_path: Path) -> None:
    cookies, gate = cookies_of(user_who_may(Act.VIEW)), tmp_path / "gate"
    job = queue.enqueue(command=f"sh -c 'until [ -e {gate} ]; do sleep 0.05; done'")

    def status() -> str:
        return ContainerJob.objects.values_list("status", flat=True).get(pk=job.pk)

    async def follow() -> None:
        await begin_to_listen(waiters, cookies)
        for wanted in ("running", "completed"):
            seen = ""
            while seen != wanted:
                told = asyncio.create_task(get(_PATH, cookies))
                while not (waiters._waiting or told.done()):
                    await asyncio.sleep(0.01)  # until it is there: nobody is told of what changes before
                if (seen := await in_a_thread(status)) == wanted:
                    waiters._wake("default")
                assert (await told)[0] == 200
            gate.touch()

    apps = ["django.contrib.auth", "django.contrib.contenttypes", "container_manager.dashboard"]
    with worker(log=tmp_path / "log", CM_WORKER_APPS=json.dumps(apps)):
        run(follow())


def test_requests_of_a_closed_event_loop_block_no_others() -> None:
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
def test_a_long_poll_without_a_change_ends(waiters: Waiters, monkeypatch: pytest.MonkeyPatch) -> None:
    cookies = cookies_of(user_who_may(Act.VIEW))

    async def wait() -> int:
        await begin_to_listen(waiters, cookies)
        monkeypatch.setattr(changes, "_HOLD_SECONDS", 0.2)
        return (await get(_PATH, cookies))[0]

    assert run(wait()) == 204
    assert waiters._waiting == {}


@only_postgresql
def test_a_user_who_may_not_view_jobs_is_told_of_no_change(waiters: Waiters) -> None:
    assert run(get(_PATH))[0] == 403
    assert run(get(_PATH, cookies_of(User.objects.create_user("nobody"))))[0] == 403
    assert waiters._listeners == {}


def test_a_page_uses_long_polls_only_where_they_are_allowed() -> None:
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
