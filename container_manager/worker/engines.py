"""The engines that a worker runs attempts on, and which of them answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ..conf import AppSettings
from ..executors.base import Executor, Observations, Unavailable
from ..jobs.package_log import package_logger

_WATCH_SECONDS = 0.5
logger = package_logger(__name__)


class Engines:
    """Which engines answer, since when others are away, and which are given up. Knows nothing of this worker's runs.

    Only the worker's own thread calls it. Its watcher threads wait for engines, and call what `start` was given.
    """

    def __init__(self, executors: Mapping[str, Executor], settings: AppSettings) -> None:
        self.executors = dict(executors)
        self._unreachable_seconds = settings.unreachable_seconds
        self._changed: dict[str, bool] = dict.fromkeys(self.executors, True)
        # An engine that outlives its workers is away until it has told what it holds.
        started = time.monotonic()
        self._away_since: dict[str, float] = {
            alias: started for alias, executor in self.executors.items() if executor.capabilities.survives_worker
        }
        self._identities: dict[str, str] = {}
        self._came_back = False
        self._logged_away: set[str] = set()
        self._closed = threading.Event()
        self._watchers: list[threading.Thread] = []

    @property
    def aliases(self) -> list[str]:
        return list(self.executors)

    @property
    def reachable(self) -> list[str]:
        """The aliases whose engines answered when last asked."""
        return [alias for alias in self.executors if alias not in self._away_since]

    @property
    def identities(self) -> dict[str, str]:
        """By alias, the identity of the engine that answered last, of those whose attempts survive their worker."""
        return dict(self._identities)

    @property
    def reachable_identities(self) -> dict[str, str]:
        """The same of the engines that answered when last asked."""
        return {alias: engine for alias, engine in self._identities.items() if alias not in self._away_since}

    def identity(self, alias: str) -> str:
        """Return the identity of an alias' engine; "" if it has not answered yet, or its attempts end with the worker.

        Any thread may call it.
        """
        return self._identities.get(alias, "")

    @property
    def away(self) -> list[str]:
        """The aliases whose engines did not answer when last asked, and are not given up."""
        return [alias for alias in self._away_since if alias not in self.given_up]

    @property
    def known_away(self) -> dict[str, float]:
        """By alias, for how many seconds engines have not answered; not those that have not been asked yet."""
        now = time.monotonic()
        return {alias: now - since for alias, since in self._away_since.items() if alias in self._logged_away}

    @property
    def given_up(self) -> list[str]:
        """The aliases whose engines have not answered for so long that their attempts count as lost."""
        before = time.monotonic() - self._unreachable_seconds
        return [alias for alias, since in self._away_since.items() if since <= before]

    def start(self, on_change: Callable[[], None]) -> None:
        """Watch the engines; ``on_change`` is called by other threads when an engine may have news."""
        for alias, executor in self.executors.items():
            watcher = threading.Thread(
                target=self._watch,
                args=(alias, executor, on_change),
                name=f"container-manager-watch-{alias}",
                daemon=True,
            )
            self._watchers.append(watcher)
            watcher.start()

    def close(self) -> None:
        """Close the executors: attempts that do not survive their worker end, and launches are given up."""
        self._closed.set()
        for executor in self.executors.values():
            executor.close()
        for watcher in self._watchers:
            if watcher.is_alive():
                watcher.join()

    def heartbeat(self, seconds: float) -> None:
        """Tell the executors that this worker lives, and will say so again within ``seconds``."""
        for executor in self.executors.values():
            executor.heartbeat(seconds)

    def maintain(self) -> None:
        """Have engines that answer look after what is theirs, such as images."""
        for alias in self.reachable:
            self.executors[alias].maintain()

    def has_changed(self, alias: str) -> bool:
        """Tell whether an engine may have news since it was last observed."""
        return self._changed[alias]

    def note_change(self, alias: str) -> None:
        """Note that an engine is to be observed at the next opportunity."""
        self._changed[alias] = True

    def observe(self, alias: str) -> Observations | Unavailable:
        """Return what an engine holds, or that it is away; note which."""
        self._changed[alias] = False
        try:
            observed = self.executors[alias].observe()
        except Unavailable as error:
            self.note_away(alias)
            if alias not in self._logged_away:
                self._logged_away.add(alias)
                logger.warning("Executor %s does not answer, its jobs stay as they are: %s", alias, error)
            return error
        if observed.as_of:
            self._note_identity(alias, observed.engine or alias)
            self.note_answer(alias)
        return observed

    def _note_identity(self, alias: str, engine: str) -> None:
        if not self.executors[alias].capabilities.survives_worker:
            return
        if (before := self._identities.get(alias, engine)) != engine:
            logger.warning(
                "Executor %s is another engine now, %s instead of %s, whose jobs are lost unless it is back in %s s",
                *(alias, engine, before, self._unreachable_seconds),
            )
        self._identities[alias] = engine

    def note_away(self, alias: str) -> None:
        """Note that an engine did not answer."""
        self._away_since.setdefault(alias, time.monotonic())

    def note_answer(self, alias: str) -> None:
        """Note that an engine answered."""
        if self._away_since.pop(alias, None) is not None:
            self._came_back = True
        if alias in self._logged_away:
            self._logged_away.discard(alias)
            logger.warning("Executor %s answers again", alias)

    def take_came_back(self) -> bool:
        """Return whether an engine that was away has answered since the last call."""
        came_back, self._came_back = self._came_back, False
        return came_back

    def _watch(self, alias: str, executor: Executor, on_change: Callable[[], None]) -> None:
        while not self._closed.is_set():
            try:
                changed = executor.watch(_WATCH_SECONDS)
            except Unavailable:
                self._closed.wait(_WATCH_SECONDS)
                continue
            if changed:
                self._changed[alias] = True
                on_change()
