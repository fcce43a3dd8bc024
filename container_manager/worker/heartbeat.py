"""The worker's row and its lease, by which others know that it lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from django.utils import timezone

from .. import store
from ..conf import AppSettings
from ..jobs.identifiers import uuid7
from ..models import Worker


class Heartbeat:
    """Registers this worker and renews its lease. If the lease was revoked, it must register again, under a new id."""

    def __init__(
        self, settings: AppSettings, *, queues: Sequence[str] | None, executors: Sequence[str], slots: int
    ) -> None:
        self.worker = ""
        self._seconds = settings.lease_seconds
        self._queues, self._executors, self._slots = list(queues or ()), list(executors), slots
        self._renewed_at = time.monotonic()

    def register(self, using: str) -> None:
        """Store the worker's row, with a lease and a new id."""
        host = socket.gethostname()
        row = Worker(
            id=f"{host[:24]}-{uuid7().hex}",
            host=host,
            pid=os.getpid(),
            queues=self._queues,
            executors=self._executors,
            slots=self._slots,
            lease_expires_at=timezone.now(),
        )
        store.register_worker(row, lease_seconds=self._seconds, using=using)
        self.worker = row.id
        self._renewed_at = time.monotonic()

    def renew(self, using: str) -> bool:
        """Renew the lease; return False if it was revoked."""
        if not store.renew_lease(self.worker, lease_seconds=self._seconds, using=using):
            return False
        self._renewed_at = time.monotonic()
        return True

    def is_late(self) -> bool:
        """Tell whether the last renewal is so long ago that this worker must not rescue at once.

        Whatever kept it from the database may have kept others too: their leases have expired although they live.
        """
        return time.monotonic() - self._renewed_at > self._seconds / 2
