"""The queryset of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Q
from django.utils import timezone

from .statemachine.queryset import StateMachineQuerySet

if TYPE_CHECKING:
    from .models import ContainerJob


class ContainerJobQuerySet(StateMachineQuerySet["ContainerJob"]):
    """Jobs: create them, and find those that are due."""

    def create_job(self, **fields: Any) -> ContainerJob:
        """Create a pending job after full validation.

        Raises ValidationError that names each wrong field.
        """
        self._for_write = True
        job = self.model(**fields)
        job.full_clean()
        job.save(using=self.db)
        return job

    def ready(self) -> ContainerJobQuerySet:
        """Return queued jobs that are due, in the order in which workers claim them."""
        due = Q(scheduled_for=None) | Q(scheduled_for__lte=timezone.now())
        return self.filter(due, status="queued").order_by("-priority", "queued_at", "pk")

    def retries_due(self) -> ContainerJobQuerySet:
        """Return jobs whose next attempt is due to be queued."""
        due = Q(scheduled_for=None) | Q(scheduled_for__lte=timezone.now())
        return self.filter(due, status="retrying")
