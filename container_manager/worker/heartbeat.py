"""The worker's row and its lease, by which others know that it lives."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from django.utils import timezone

from .. import store
from ..conf import AppSettings
from ..jobs.identifiers import uuid7
from ..jobs.package_log import package_logger
from ..models import Worker
from .database import LAST_RETRY_SECONDS, Database
from .outcomes import storable
from .timers import Timer

# After an outage of our own wait twice the maximum backoff before rescuing: others were probably cut off too.
_OTHERS_RETURN_SECONDS = 2 * LAST_RETRY_SECONDS
# A loop that has made no turn for so many leases hangs. What it asks of the database takes less than one lease.
_HUNG_LEASES = 2.0
logger = package_logger(__name__)


class Heartbeat:
    """Registers this worker, and renews its lease in a thread of its own, on a connection of its own.

    It renews as long as the loop makes turns (`note_turn`). If the lease was revoked, the loop must register again,
    under a new id. ``all_survive``: nothing that this worker runs ends with it, so that OUTAGE_SECONDS does not count.
    ``renewed`` is called with the seconds for which others leave this worker its attempts; ``wake`` when the lease was
    revoked. The loop's thread calls all methods.
    """

    def __init__(
        self,
        database: Database,
        settings: AppSettings,
        *,
        queues: Sequence[str] | None,
        executors: Sequence[str],
        slots: int,
        all_survive: bool,
        renewed: Callable[[float], None],
        wake: Callable[[], None],
    ) -> None:
        self.worker = ""
        self._database, self._renewed, self._wake = database, renewed, wake
        self._lease_seconds = settings.lease_seconds
        outage_seconds = 0.0 if all_survive else settings.outage_seconds
        self._rescuable_seconds = max(settings.lease_seconds, outage_seconds)
        self._queues, self._executors, self._slots = list(queues or ()), list(executors), slots
        self._timer = Timer(settings.lease_seconds / 3)
        # Guards the worker's id and what is known of its lease.
        self._lock = threading.Lock()
        self._renewed_at = self._turned_at = time.monotonic()
        self._rescues_from = 0.0
        self._is_revoked = self._said_late = self._said_hung = False
        self._ended, self._due = False, threading.Event()
        self._thread: threading.Thread | None = None

    def register(self, using: str) -> None:
        """Store the worker's row, with a lease and a new id; on the caller's connection."""
        host, asked = socket.gethostname(), time.monotonic()
        row = Worker(
            id=f"{storable(host[:24])[:24]}-{uuid7().hex}",
            host=storable(host)[:255],
            place=store.this_place(),
            pid=os.getpid(),
            queues=self._queues,
            executors=self._executors,
            slots=self._slots,
            lease_expires_at=timezone.now(),
        )
        store.register_worker(
            row, lease_seconds=self._lease_seconds, rescuable_seconds=self._rescuable_seconds, using=using
        )
        with self._lock:
            self.worker, self._is_revoked = row.id, False
            self._note_renewed(asked)

    def start(self, *, in_own_thread: bool) -> None:
        """Begin to renew; without a thread of its own it is for the loop to call `renew_if_due`."""
        self.note_turn()
        self._timer.restart()
        if not in_own_thread:
            return
        self._thread = threading.Thread(target=self._run, name="container-manager-heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Renew no more."""
        self._ended = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def note_turn(self) -> None:
        """Note that the loop does not hang."""
        self._turned_at = time.monotonic()
        if self._said_hung:
            self.hurry()

    def hurry(self) -> None:
        """Renew now."""
        self._timer.hurry()
        self._due.set()

    def renew_if_due(self) -> None:
        """Renew if it is time to; on the caller's connection, and in its transaction."""
        if self._timer.take_due() and not self._is_revoked:
            self._beat()

    @property
    def turn_seconds(self) -> float:
        """How often the loop is to make a turn, at least."""
        return self._timer.seconds

    @property
    def is_revoked(self) -> bool:
        """Whether the lease was revoked, and the worker has not registered again."""
        return self._is_revoked

    def has_lease(self) -> bool:
        """Tell whether the lease has not expired, by this worker's own clock."""
        return time.monotonic() - self._renewed_at < self._lease_seconds

    def may_rescue(self) -> bool:
        """Tell whether the last renewals were in time.

        Whatever kept this worker from the database may have kept others too: their leases have expired although they
        live. Once it is back, they get time to renew theirs.
        """
        return not self._is_late(time.monotonic()) and time.monotonic() >= self._rescues_from

    def _is_late(self, now: float) -> bool:
        return now - self._renewed_at > self._lease_seconds / 2

    def _run(self) -> None:
        try:
            while not self._ended:
                self.renew_if_due()
                self._due.wait(max(self._timer.left(), self._database.back.left() if self._database.is_away else 0.0))
                self._due.clear()
        finally:
            self._database.close()

    def _beat(self) -> None:
        """Renew the lease, unless the loop hangs; a renewal that fails is repeated once the backoff has passed."""
        hangs = self._loop_hangs()
        self._warn_once_hung(hangs=hangs)
        if hangs:
            return
        worker, asked = self.worker, time.monotonic()
        renewed = self._database.attempt(
            lambda: store.renew_lease(
                worker,
                lease_seconds=self._lease_seconds,
                rescuable_seconds=self._rescuable_seconds,
                using=self._database.using,
            )
        )
        if renewed is None:
            self._timer.hurry()
            self._warn_once_late()
            return
        with self._lock:
            if worker != self.worker:
                return
            if renewed:
                self._note_renewed(asked)
            else:
                self._is_revoked = True
        if not renewed:
            self._wake()

    def _note_renewed(self, asked: float) -> None:
        if self._is_late(asked):
            self._rescues_from = time.monotonic() + _OTHERS_RETURN_SECONDS
        self._renewed_at = asked
        if self._said_late:
            logger.warning("Worker %s has renewed its lease again", self.worker)
            self._said_late = False
        # Counted from before the renewal: what does not survive its worker must end before others may take it.
        self._renewed(asked + self._rescuable_seconds - time.monotonic())

    def _warn_once_late(self) -> None:
        if self._said_late or self.has_lease():
            return
        self._said_late = True
        logger.error(
            "Worker %s could not renew its lease for %s s. What it runs goes on: no other worker has taken that yet. "
            "Local processes end %s s after the last renewal, when other workers may start their jobs again.",
            self.worker,
            self._lease_seconds,
            self._rescuable_seconds,
        )

    def _loop_hangs(self) -> bool:
        return time.monotonic() - self._turned_at > _HUNG_LEASES * self._lease_seconds

    def _warn_once_hung(self, *, hangs: bool) -> None:
        if hangs and not self._said_hung:
            logger.error(
                "The loop of worker %s hangs: its lease is not renewed, so that other workers take its jobs, until the "
                "loop goes on",
                self.worker,
            )
        self._said_hung = hangs
