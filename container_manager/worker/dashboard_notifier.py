"""Notify open pages of the dashboard."""

from __future__ import annotations

from collections.abc import Sequence

from django.apps import apps

from .. import store
from .timers import Timer

# How often pages are notified at most: a commit that notifies holds up all others that do.
_NOTIFY_SECONDS = 0.5


class DashboardNotifier:
    """Notifies open pages of the dashboard that jobs have changed; nobody if it is not installed."""

    def __init__(self, *, using: str) -> None:
        self._using = using
        self._is_installed = apps.is_installed("container_manager.dashboard")
        self._timer = Timer(_NOTIFY_SECONDS)
        self._has_changes = False

    @property
    def timers(self) -> Sequence[Timer]:
        """The timer to wait for, if there is something to notify of."""
        return [self._timer] if self._has_changes and self._is_installed else []

    def note_change(self) -> None:
        """Note that this worker has changed something."""
        self._has_changes = True

    def notify_if_due(self) -> None:
        """Notify of what has changed since the last notification, if it is time to."""
        if self._has_changes and self._is_installed and self._timer.take_due():
            self._has_changes = False
            store.wake_dashboards(using=self._using)
