"""Open pages wait here for changes, where that costs a server no thread: under ASGI, on PostgreSQL.

Everywhere else, and behind a connection pooler, they look every few seconds as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import connections, router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..models import ContainerJob
from ..store.notifications import CHANGES_CHANNEL, CHANNEL, Listener, can_notify
from .access import Act, require

# Proxies often end an answer that has not begun after a minute.
_HOLD_SECONDS = 25.0
_ANSWER_SECONDS = 10.0


class Waiters:
    """The requests of this process that wait for a change of a database; one connection serves them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, Listener] = {}
        self._waiting: dict[asyncio.Event, tuple[str, asyncio.AbstractEventLoop]] = {}

    async def wait(self, using: str, seconds: float) -> bool:
        """Return whether something may have changed, as soon as it has, or after so many seconds."""
        changed = asyncio.Event()
        with self._lock:
            self._waiting[changed] = (using, asyncio.get_running_loop())
        try:
            await sync_to_async(self._listen, thread_sensitive=False)(using)
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return False
        finally:
            with self._lock:
                del self._waiting[changed]
        return True

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners.values():
            listener.stop()

    def _listen(self, using: str) -> None:
        """Start to listen, for as long as this process lives: in the process itself, which may have been forked."""
        with self._lock:
            if using not in self._listeners:
                channels = (CHANNEL, CHANGES_CHANNEL)
                listener = Listener(
                    using, lambda hint: self._wake(using), answer_seconds=_ANSWER_SECONDS, channels=channels
                )
                self._listeners[using] = listener
                listener.start()

    def _wake(self, using: str) -> None:
        with self._lock:
            for changed, (waits_for, loop) in self._waiting.items():
                if waits_for == using:
                    # A loop that was closed with its requests: the others are told all the same.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(changed.set)


_waiters = Waiters()


def can_wait(request: HttpRequest) -> bool:
    """Tell whether a page that this request gets may wait for changes."""
    return isinstance(request, ASGIRequest) and can_notify(router.db_for_read(ContainerJob))


@never_cache
@require_safe
@transaction.non_atomic_requests
async def changes(request: HttpRequest) -> HttpResponse:
    """Answer with 200 when something may have changed, or with 204 after a while; 404 where nobody can wait."""
    if not can_wait(request):
        return HttpResponseNotFound("Look every few seconds.", content_type="text/plain")
    await sync_to_async(_admit)(request)
    has_changed = await _waiters.wait(router.db_for_read(ContainerJob), _HOLD_SECONDS)
    return HttpResponse(status=200 if has_changed else 204)


def _admit(request: HttpRequest) -> None:
    """Raise PermissionDenied unless the user may view jobs; keep no connection while the request waits."""
    try:
        require(request.user, Act.VIEW)
    finally:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close()
