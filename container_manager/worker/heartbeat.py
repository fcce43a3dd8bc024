"""The worker's row: by its lease others tell that it lives."""

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
    """A lease that this worker holds, or has lost: then it registers under another name."""

    def __init__(
        self, settings: AppSettings, *, queues: Sequence[str] | None, executors: Sequence[str], slots: int
    ) -> None:
        self.worker = ""
        self._seconds = settings.lease_seconds
        self._queues, self._executors, self._slots = list(queues or ()), list(executors), slots
        self._renewed_at = time.monotonic()

    def register(self, using: str) -> None:
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
        """Put the end of the lease off; False where others have taken this worker for dead."""
        if not store.renew_lease(self.worker, lease_seconds=self._seconds, using=using):
            return False
        self._renewed_at = time.monotonic()
        return True

    def is_late(self) -> bool:
        """Tell whether this worker was kept from the database for so long that it cannot judge others.

        What kept it may have kept them too: their leases have run out although they live.
        """
        return time.monotonic() - self._renewed_at > self._seconds / 2
