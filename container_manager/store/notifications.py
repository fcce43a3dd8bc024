"""Wake workers and dashboards by NOTIFY and LISTEN on PostgreSQL. Notifications are hints only: both also poll."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import ceil
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, Error, connections, transaction
from django.db.utils import load_backend

from ..jobs.package_log import package_logger
from ..models import JobStatus
from ..signals import job_transitioned
from ..statemachine import Transition
from .silence import answered_within
from .sql import store_sql

# What workers listen to, and what only dashboards do.
CHANNEL, CHANGES_CHANNEL = "container_manager", "container_manager_changes"
_NOTIFYING = "postgresql"
READY, CANCELLED, CHANGED = "ready", "cancelled", "changed"
_RECONNECT_SECONDS = 2.0
_POOLED = (
    "Database %r is reached through a connection pooler: workers and dashboards poll, since they cannot be "
    "notified there; workers set nothing in their sessions and prepare no statements."
)
logger = package_logger(__name__)


def wake_workers(hint: str = READY, *, using: str) -> None:
    """Send a notification after the transaction has committed: jobs are ready, or some were cancelled.

    An error of it is logged and not raised: what it tells of is committed, and workers find that by polling.
    """
    _notify_on_commit(CHANNEL, hint, using)


def wake_dashboards(*, using: str) -> None:
    """Send a notification that something has changed of which workers need not know, as `wake_workers` does."""
    _notify_on_commit(CHANGES_CHANNEL, CHANGED, using)


def can_notify(using: str) -> bool:
    """Tell whether a database has notifications."""
    return connections[using].vendor == _NOTIFYING


def _notify_on_commit(channel: str, hint: str, using: str) -> None:
    if can_notify(using):
        transaction.on_commit(partial(_notify, channel, hint, using), using=using)


def _notify(channel: str, hint: str, using: str) -> None:
    # In a transaction of its own, since NOTIFY serializes commits. Without synchronous_commit: a hint need not be
    # durable.
    connection = connections[using]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)", [channel, hint])
    except Error as error:
        logger.warning("Workers and dashboards were not notified, they find the change by polling: %s", error)
        # The caller's next statement connects again.
        connection.close_if_unusable_or_obsolete()


def notice_transitions(transitions: tuple[Transition, ...], using: str, **kwargs: Any) -> None:
    """Wake workers for jobs that are ready now, or were cancelled."""
    targets = {transition.target for transition in transitions}
    for target, hint in ((JobStatus.QUEUED, READY), (JobStatus.CANCELLED, CANCELLED)):
        if target in targets:
            wake_workers(hint, using=using)


def others_listen() -> bool:
    """Tell whether `job_transitioned` has receivers other than `notice_transitions`."""
    return len(job_transitioned.receivers) > int(_NOTICES)


class Listener:
    """A thread with a connection of its own that passes on notifications, and every hint once when it connects.

    While there are none it asks from time to time whether the server is there; ``answer_seconds``: how long that may
    take. It ends where notifications cannot come: behind a pooler, which has no session for it.
    """

    def __init__(
        self, using: str, hint: Callable[[str], None], *, answer_seconds: float, channels: Sequence[str] = (CHANNEL,)
    ) -> None:
        self._using, self._hint, self._answer_seconds, self._channels = using, hint, answer_seconds, channels
        self._ended = threading.Event()
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="container-manager-listener", daemon=True)

    def start(self) -> None:
        if can_notify(self._using):
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._stop_writer.close()
        if self._thread.is_alive():
            self._thread.join()
        self._stop_reader.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            connection = connections[self._using].copy()
            # It would keep one of Django's pool, and give it back with its LISTEN.
            connection.settings_dict["OPTIONS"].pop("pool", None)
            connection.settings_dict["OPTIONS"].setdefault("connect_timeout", ceil(self._answer_seconds))
            try:
                with answered_within(self._answer_seconds, connection):
                    connection.ensure_connection()
                    is_pooled = store_sql(connection).is_pooled(connection)
                if is_pooled:
                    logger.warning(_POOLED, self._using)
                    return
                self._listen(connection)
            except DatabaseError as error:
                logger.warning("The listener lost its connection, polling goes on: %s", error)
                self._ended.wait(_RECONNECT_SECONDS)
            finally:
                connection.close()

    def _listen(self, connection: Any) -> None:
        self._ask(connection, "; ".join(f"LISTEN {channel}" for channel in self._channels))
        # Not select(): it refuses descriptors above 1,023, which a worker with many jobs has.
        with connection.wrap_database_errors, selectors.DefaultSelector() as sources:
            sources.register(connection.connection, selectors.EVENT_READ)
            sources.register(self._stop_reader, selectors.EVENT_READ)
            while not self._ended.is_set():
                if not sources.select(self._answer_seconds):
                    self._ask(connection, "SELECT 1")
                for hint in {notice.payload for notice in _notices(connection.connection)}:
                    self._hint(hint)

    def _ask(self, connection: Any, statement: str) -> None:
        with answered_within(self._answer_seconds, connection), connection.cursor() as cursor:
            cursor.execute(statement)
        # For notifications that came before this was answered.
        for hint in (READY, CANCELLED):
            self._hint(hint)


def _notices(connection: Any) -> Iterable[Any]:
    """Return what has come to a connection of psycopg or of psycopg2."""
    if callable(connection.notifies):
        return connection.notifies(timeout=0)  # type: ignore[no-any-return]
    connection.poll()
    come, connection.notifies[:] = list(connection.notifies), []
    return come


def _is_notifying(engine: str) -> bool:
    """Tell whether a backend is PostgreSQL's or derived from it. One that cannot be loaded is reported by Django."""
    try:
        return bool(load_backend(engine).DatabaseWrapper.vendor == _NOTIFYING)
    except ImproperlyConfigured:
        return False


# Connected only if a database can notify: each receiver costs every transition a little.
_NOTICES = any(_is_notifying(settings["ENGINE"]) for settings in connections.settings.values())
if _NOTICES:
    job_transitioned.connect(notice_transitions)
