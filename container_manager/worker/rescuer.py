"""Take over the attempts of workers that have died."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import store
from ..conf import AppSettings
from ..jobs.package_log import package_logger
from .set_aside import SetAside
from .sightings import LeaseWatch
from .timers import Timer

logger = package_logger(__name__)


class Rescuer:
    """Looks at the leases of other workers, and takes over what those that are dead have left.

    ``may_rescue``: tells whether this worker itself was not cut off just now; see `Heartbeat.may_rescue`.
    """

    def __init__(self, settings: AppSettings, *, using: str, may_rescue: Callable[[], bool]) -> None:
        self._using, self._may_rescue = using, may_rescue
        # Leases are watched even while none has expired, so that a dead worker is known as soon as its own has.
        self._look = Timer(settings.lease_seconds / 4)
        self._watch = LeaseWatch(settings.lease_seconds)
        # Orphaned attempts that the database refuses to hand over.
        self._unrescuable: SetAside[int] = SetAside(first_seconds=1.0, longest_seconds=600.0)

    def rescue(self, worker: str, engines: Mapping[str, str], *, at_once: bool) -> int:
        """Rescue what this worker can go on with, if it is time to or ``at_once``; return how many it took over.

        ``engines``: by executor, the identity of the engine that this worker reaches at this moment.
        """
        if not ((self._look.take_due() or at_once) and self._may_rescue()):
            return 0
        for dead in self._watch.dead(store.other_leases(worker=worker, using=self._using)):
            store.delete_expired_worker(dead, using=self._using)
        taken = store.rescue(
            worker=worker,
            engines=engines,
            besides=self._unrescuable.waiting(),
            refused=self._note_unrescuable,
            using=self._using,
        )
        if taken:
            logger.warning("Worker %s took over %s attempts of dead workers", worker, taken)
        return taken

    def _note_unrescuable(self, attempt: store.UnownedAttempt, error: Exception) -> None:
        seconds = self._unrescuable.put(attempt.id)
        what = "The database refuses to hand over job=%s attempt=%s, trying again in %s s: %s"
        logger.error(what, *attempt.key, seconds, error)
