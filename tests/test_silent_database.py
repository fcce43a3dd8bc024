"""A database that is silent, or locked for long, stops neither a worker nor what ends it."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from container_manager import queue
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker
from container_manager.worker.database import Database, Watchdog

from .jobs import row_of
from .polling import PATIENCE_SECONDS
from .silent_proxy import SilentProxy, silent_proxy
from .workers import eventually, worker

pytestmark = pytest.mark.django_db(transaction=True)
# A new connection has a third of it, on a busy machine too: a worker that ends makes one, and not twice.
_LEASE_SECONDS = 6.0


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[SilentProxy | None]:
    if connection.vendor == "sqlite":
        yield None
        return
    folder = tmp_path / "proxy"
    folder.mkdir()
    with silent_proxy(folder) as proxy:
        yield proxy


def address(proxy: SilentProxy | None) -> dict[str, str]:
    return {} if proxy is None else {"CM_TEST_SOCKET": proxy.address}


@contextmanager
def database_away(proxy: SilentProxy | None) -> Iterator[None]:
    """Keep the workers' database away: silent, or locked by another writer."""
    if proxy is not None:
        proxy.fall_silent(for_new=True)
        yield
        proxy.answer_new()
        return
    connection.close()
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, timeout=PATIENCE_SECONDS)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection that could be silent")
@pytest.mark.shows("explanation/worker.md#the-database-is-away")
def test_a_worker_whose_database_connections_fall_silent_reconnects(tmp_path: Path, proxy: SilentProxy) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    os.mkfifo(go)
    running = queue.enqueue(command=f"sh -c 'read word < {go}'", max_retries=0)
    more = {"log": log, "lease_seconds": _LEASE_SECONDS, "CM_WORKER_OUTAGE_SECONDS": "600"}
    with worker("--slots", "2", **more, **address(proxy)) as process:
        eventually(JobAttempt.objects.exists)
        name = Worker.objects.get(pid=process.pid).pk
        proxy.fall_silent()
        later = queue.enqueue(command="true")
        eventually(lambda: row_of(later)["status"] == "completed")
        with go.open("w") as word:
            word.write("\n")
        eventually(lambda: row_of(running)["status"] == "completed")
        assert later.attempts.get().worker == running.attempts.get().worker == name
        assert "a connection is given up" in log.read_text()
        proxy.fall_silent()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0, log.read_text()
    assert not Worker.objects.exists()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection that could be silent")
def test_a_database_connection_that_falls_silent_while_connecting_is_given_up(
    proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has connected, and Django asks for the new connection's settings."""
    raised: list[Exception] = []

    def ask() -> None:
        own = connection.copy()
        name = "HOST" if connection.vendor == "postgresql" else "OPTIONS"
        value = proxy.address if name == "HOST" else {**own.settings_dict["OPTIONS"], "unix_socket": proxy.address}
        own.settings_dict[name] = value
        connections["default"] = own
        database = Database("default", lease_seconds=_LEASE_SECONDS)
        watchdog = Watchdog([database], lease_seconds=_LEASE_SECONDS)
        watchdog.start()
        try:
            database.do(connections["default"].ensure_connection)
        except OperationalError as error:
            raised.append(error)
        finally:
            watchdog.close()

    wrapper = type(connections["default"])
    init = wrapper.init_connection_state

    def init_in_silence(self: Any) -> None:
        proxy.fall_silent()
        init(self)

    monkeypatch.setattr(wrapper, "init_connection_state", init_in_silence)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert len(raised) == 1


def said(log: Path, text: str) -> Callable[[], bool]:
    return lambda: text in log.read_text()


@pytest.mark.shows("howto/worker.md#stop-a-worker")
def test_a_second_sigterm_ends_a_worker_that_cannot_store_an_outcome(tmp_path: Path, proxy: SilentProxy | None) -> None:
    go, ended, log = (tmp_path / name for name in ("go", "ended", "log"))
    os.mkfifo(go)
    job = queue.enqueue(command=f"sh -c 'echo begun; read word < {go}; : > {ended}'", max_retries=1)
    more = {"log": log, "lease_seconds": _LEASE_SECONDS, "CM_WORKER_OUTAGE_SECONDS": "600"}
    with worker("--slots", "1", **more, **address(proxy)) as process:
        eventually(JobLog.objects.exists)
        with database_away(proxy):
            with go.open("w") as word:
                word.write("\n")
            eventually(ended.exists)
            process.send_signal(signal.SIGTERM)
            eventually(said(log, "was told to stop"))
            eventually(said(log, "trying again in"))
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_SECONDS) == 1
    text = log.read_text()
    assert f"leaves jobs whose ends are not stored: {job.pk}" in text
    assert "Traceback" not in text
    # As the log has said.
    assert row_of(job)["status"] == "running"
    with worker("--slots", "1", log=log, lease_seconds=_LEASE_SECONDS):
        eventually(lambda: job.attempts.filter(number=1, reason="lost").exists())
    assert ContainerJob.objects.get(pk=job.pk).attempt in (1, 2)


@pytest.mark.shows("explanation/worker.md#the-database-is-away")
def test_a_local_process_outlasts_an_outage_that_is_longer_than_the_lease(
    tmp_path: Path, proxy: SilentProxy | None
) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    os.mkfifo(go)
    job = queue.enqueue(command=f"sh -c 'echo begun; read word < {go}'", max_retries=0)
    more = {"log": log, "lease_seconds": 1.5, "CM_WORKER_OUTAGE_SECONDS": "600"}
    with worker("--slots", "1", **more, **address(proxy)):
        eventually(JobLog.objects.exists)
        with database_away(proxy):
            eventually(said(log, "could not renew its lease"))
            with go.open("w") as word:
                word.write("\n")
        eventually(lambda: row_of(job)["status"] == "completed")
        eventually(said(log, "has renewed its lease again"))
    assert row_of(job)["attempt"] == 1
