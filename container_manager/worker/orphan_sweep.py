"""Remove orphans from engines."""

from __future__ import annotations

from .. import store
from .runs import Runs
from .timers import Timer

_SWEEP_SECONDS = 30.0


class OrphanSweep:
    """Removes attempts that are over from engines: their workers died before they removed them, say."""

    def __init__(self, runs: Runs, *, using: str) -> None:
        self._runs, self._using = runs, using
        self._timer = Timer(_SWEEP_SECONDS)

    def hurry(self) -> None:
        """Be due now."""
        self._timer.hurry()

    def sweep_if_due(self) -> None:
        """Remove the orphans of each engine that answers, if it is time to."""
        if not self._timer.take_due():
            return
        for alias, attempts in self._runs.unknown_attempts().items():
            if attempts:
                orphans = store.attempts_over(attempts, using=self._using)
                for key, failed in orphans.items():
                    self._runs.remove_from_engine(alias, attempts[key], failed=failed)
