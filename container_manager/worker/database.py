"""Work with a database that may be unavailable for a while."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from django.db import InterfaceError, InternalError, NotSupportedError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import store
from ..jobs.package_log import package_logger
from .timers import Timer

T = TypeVar("T")
AWAY = (OperationalError, InterfaceError, InternalError)
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 2.0
# How much of a lease a connection may be silent: more than the database itself gives a statement. A heartbeat that
# begins after a third of the lease, and meets a silent connection, still has time to connect again.
_SILENCE_SHARE = 1 / 2
_CONNECT_SHARE = 1 / 3
logger = package_logger(__name__)


class Database:
    """One thread's connection, with a backoff while the database is away.

    ``lease_seconds``: nothing that is asked takes as long: the database limits it where it can, and a `Watchdog` ends a
    connection that is silent for half of that. ``inline``: the connection is the caller's, also outside a transaction.
    """

    def __init__(self, using: str, *, lease_seconds: float, inline: bool = False) -> None:
        self.using, self._lease_seconds, self._inline = using, lease_seconds, inline
        self.back = Timer(FIRST_RETRY_SECONDS)
        # The driver's connection that is in use, a duplicate of its socket, and the connection that is prepared.
        self._raw: Any = None
        self._socket: socket.socket | None = None
        self._release: Callable[[], object] = lambda: None
        self._prepared: Any = None
        # Those of the connection as others know it.
        self._settings: dict[str, Any] | None = None
        # The connection while it may be in use: also before its driver's has sent the first statement.
        self._connection: BaseDatabaseWrapper | None = None
        # Since when an answer is waited for; None: for nothing.
        self._waits_since: float | None = None
        # Whether it answered when it last failed.
        self.answered = False
        # Django's connection of the thread that asks: to look it up takes as long as a turn's own work.
        self._thread, self._here = 0, cast(BaseDatabaseWrapper, None)

    @property
    def is_callers(self) -> bool:
        """Whether the worker works on its caller's connection alone, and neither prepares nor replaces it.

        So it does in a transaction, which others do not see: ask only where the worker's own code has begun none.
        """
        return self._inline or self._connection_here().in_atomic_block

    @property
    def is_away(self) -> bool:
        """Whether the last attempt failed."""
        return self.back.seconds > FIRST_RETRY_SECONDS

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Do some work and return its result; None if the database is away, or the backoff has not passed.

        The caller keeps what it has, and tries again later.
        """
        if self.is_away and not self.back.take_due():
            return None
        try:
            result = self.do(work)
        except AWAY as error:
            if self.is_callers:
                raise
            self.back = Timer(min(LAST_RETRY_SECONDS, max(2 * FIRST_RETRY_SECONDS, self.back.seconds * 2)))
            self.back.restart()
            what = "refused what it was asked" if self.answered else "did not answer"
            logger.warning("The database %s, trying again in %s s: %s", what, self.back.seconds, error)
            return None
        if self.is_away:
            self.back = Timer(FIRST_RETRY_SECONDS)
        return result

    def do(self, work: Callable[[], T]) -> T:
        """Do some work and return its result; raise what the database raises, and connect again the next time.

        What is the caller's (`is_callers`) stays as it is.
        """
        connection = self._connection_here()
        if connection.in_atomic_block or self._inline:
            return work()
        self._connection = connection
        self._waits_since = time.monotonic()
        try:
            if connection.connection is None or connection.connection is not self._prepared:
                self._prepare(connection)
            return work()
        except AWAY:
            self._waits_since = time.monotonic()
            self.answered = answers(self.using)
            self.close()
            raise
        finally:
            self._waits_since = self._connection = None

    def close(self) -> None:
        """Close this thread's connection."""
        self._hold_socket(None)
        self._connection_here().close()
        self._prepared = None
        self._unwatch()

    def end(self) -> None:
        """Close this thread's connection, and leave the next one to others as it was found."""
        connection = self._connection_here()
        if not self.is_callers:
            self.close()
        self._unwatch()
        if self._settings is not None:
            connection.settings_dict, self._settings = self._settings, None

    def end_silence(self, seconds: float) -> None:
        """End the connection if it has been silent for so long; for other threads."""
        since, connected, connection = self._waits_since, self._socket, self._connection
        if since is None or connection is None or time.monotonic() - since < seconds:
            return
        if connected is not None:
            store.shut_down(connected)
        elif not store.end_connection(connection):
            return
        self._waits_since = None
        logger.warning("The database did not answer within %s s: a connection is given up", seconds)

    def _prepare(self, connection: BaseDatabaseWrapper) -> None:
        if self._note_progress not in connection.execute_wrappers:
            # Django's own context manager for wrappers takes the last one away.
            connection.execute_wrappers.insert(0, self._note_progress)
        self._take_out_of_pool(connection)
        if connection.connection is not self._raw:
            self._hold_socket(connection.connection)
        if connection.connection is None:
            self._limit_connecting(connection)
        store.prepare_session(lease_seconds=self._lease_seconds, using=self.using)
        self._prepared = connection.connection

    def _unwatch(self) -> None:
        wrappers = self._connection_here().execute_wrappers
        if self._note_progress in wrappers:
            wrappers.remove(self._note_progress)

    def _take_out_of_pool(self, connection: BaseDatabaseWrapper) -> None:
        """Give a connection back to Django's pool: a worker would keep it, and others would have its settings."""
        if self._settings is None and connection.settings_dict["OPTIONS"].get("pool"):
            connection.close()

    def _limit_connecting(self, connection: BaseDatabaseWrapper) -> None:
        """Have the driver give up a server that does not answer; on this thread's connection only, and without pool."""
        limits = store.connect_options(seconds=self._lease_seconds * _CONNECT_SHARE, using=self.using)
        self._settings = self._settings or connection.settings_dict
        options = {**limits, **connection.settings_dict["OPTIONS"]}
        options.pop("pool", None)
        connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}

    def _hold_socket(self, raw: Any) -> None:
        self._release()
        self._raw, self._socket = raw, store.socket_of(raw)
        # Also when nobody ends this object.
        self._release = (lambda: None) if self._socket is None else weakref.finalize(self, self._socket.close)

    def _connection_here(self) -> BaseDatabaseWrapper:
        thread = threading.get_ident()
        if self._thread != thread:
            self._thread, self._here = thread, connections[self.using]
        return self._here

    def _note_progress(
        self, execute: Callable[..., T], sql: str, params: Any, many: bool, context: Mapping[str, Any]
    ) -> T:
        raw = context["connection"].connection
        if raw is not self._raw:
            self._hold_socket(raw)
        self._waits_since = time.monotonic()
        try:
            return execute(sql, params, many, context)
        except NotSupportedError as error:
            # A migration has changed the type of a column that a prepared statement returns, says PostgreSQL. The next
            # session prepares it again.
            raise OperationalError(*error.args) from error
        finally:
            self._waits_since = time.monotonic()


class Watchdog:
    """A thread that ends connections which are silent for too long: a driver would wait for ever."""

    def __init__(self, databases: Sequence[Database], *, lease_seconds: float) -> None:
        self._databases, self._seconds = databases, lease_seconds * _SILENCE_SHARE
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="container-manager-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end_all(self) -> None:
        """End every connection that an answer is waited for on: the worker waits no more."""
        for database in self._databases:
            database.end_silence(0.0)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds / 8):
            for database in self._databases:
                database.end_silence(self._seconds)


def answers(using: str) -> bool:
    """Tell whether this thread's connection works, after a statement on it has failed."""
    connection = connections[using]
    return connection.connection is not None and connection.is_usable()
