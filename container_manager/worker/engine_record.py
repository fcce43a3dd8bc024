"""What the worker's row says of its engines."""

from __future__ import annotations

from .. import store
from ..jobs.package_log import package_logger
from .engines import Engines

logger = package_logger(__name__)


class EngineRecord:
    """Tells others which engines answer here, and warns where one of their aliases is another engine."""

    def __init__(self, engines: Engines, *, using: str) -> None:
        self._engines, self._using = engines, using
        # What was stored last, and in which worker's row.
        self._stored: tuple[str, dict[str, str], set[str]] = ("", {}, set())
        # The aliases of which it was said that they are several engines.
        self._shared: set[str] = set()

    def update(self, worker: str) -> None:
        """Store what has changed since the last update."""
        engines, away = self._engines.identities, self._engines.known_away
        state = (worker, engines, set(away))
        # A new row names none.
        if state == (self._stored if self._stored[0] == worker else (worker, {}, set())):
            return
        store.record_engines(worker, engines, away, using=self._using)
        self._stored = state
        self._warn_of_shared(engines)

    def _warn_of_shared(self, engines: dict[str, str]) -> None:
        for alias, found in store.engines_by_alias(using=self._using).items():
            mine = engines.get(alias)
            others = sorted({host for engine, hosts in found.items() if engine != mine for host in hosts})
            if mine and others and alias not in self._shared:
                self._shared.add(alias)
                logger.warning(
                    "Executor %s is another engine here than for the workers on %s: neither can adopt the other's "
                    "attempts. Give each engine an alias of its own.",
                    *(alias, ", ".join(others)),
                )
