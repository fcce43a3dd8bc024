"""The table of queues that are paused."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from ..jobs.printable import escaped, validate_line
from ..name_field import NameField


class PausedQueue(models.Model):
    """A queue that workers do not claim from, as long as the row exists."""

    name = NameField(primary_key=True, max_length=64)
    paused_at = models.DateTimeField(default=timezone.now)
    paused_by = models.CharField(max_length=255, blank=True, default="", validators=[validate_line])

    def __str__(self) -> str:
        return escaped(self.name)
