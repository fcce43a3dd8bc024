"""The table of workers and their leases."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from ..jobs.printable import escaped
from ..name_field import NameField


class Worker(models.Model):
    """A worker and its lease.

    ``rescuable_at``: from when others may take its attempts, though they do not know that its process is gone; null:
    as soon as the lease has expired. ``place``: where ``pid`` means this process; "" if that is not known.
    ``engines``: by alias, the identity of the engine that answered there last. ``engines_away``: by alias, since when
    an engine does not answer, as ISO 8601; null of a worker of an older release.
    """

    id = NameField(primary_key=True, max_length=64)
    host = models.CharField(max_length=255)
    place = models.CharField(max_length=255, blank=True, default="", db_default="")
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list)
    executors = models.JSONField(default=list)
    engines = models.JSONField(default=dict)
    engines_away = models.JSONField(default=dict, null=True)
    slots = models.PositiveIntegerField(default=1)
    started_at = models.DateTimeField(default=timezone.now)
    lease_expires_at = models.DateTimeField(db_index=True)
    rescuable_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return escaped(self.id)

    def serves(self, executor: str, queue: str) -> bool:
        """Tell whether it claims jobs of this executor in this queue; a worker that names no queues serves all."""
        return executor in self.executors and (not self.queues or queue in self.queues)
