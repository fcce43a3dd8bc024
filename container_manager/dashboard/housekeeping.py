"""The dashboard's housekeeping: go on with acts that nobody watches, and delete what is too old to be kept."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError

from ..conf import app_settings
from ..store import database_now, is_refusal
from .acts import advance_unfinished
from .models import ApiToken, AuditEntry, BulkAct

HOUSEKEEPING_BATCH = 500
_PRUNE_SECONDS = 3600.0
# Of each table an indexed time, after which a row is kept for AUDIT_DAYS. Of a bulk act that has not finished and of a
# token that does not expire it is NULL.
_TIMES = ((AuditEntry, "at"), (BulkAct, "finished_at"), (ApiToken, "expires_at"))


class Housekeeping:
    """Goes on with acts at each step, and prunes once an hour."""

    def __init__(self) -> None:
        # By alias, by the monotonic clock.
        self._prune_at: dict[str, float] = {}

    def step(self, *, using: str, **_kwargs: Any) -> bool:
        """Do a batch, as a receiver of `container_manager.signals.maintenance_due`; return whether there is more."""
        try:
            return self._do(using)
        except DatabaseError as error:
            if is_refusal(error, using=using):
                raise
            # The database is away: the worker finds that out by itself, and goes on when it is back.
            return False

    def _do(self, using: str) -> bool:
        more = advance_unfinished(seconds=0, using=using)
        if (now := time.monotonic()) >= self._prune_at.get(using, 0.0):
            # Before it is done: an error is logged once an hour.
            self._prune_at[using] = now + _PRUNE_SECONDS
            if prune(before=database_now(using=using) - timedelta(days=app_settings().audit_days), using=using):
                self._prune_at[using] = now
                more = True
        return more


def prune(*, before: datetime, using: str) -> bool:
    """Delete a batch of each table's rows that are over since before a time; return whether there may be more."""
    found = 0
    for model, name in _TIMES:
        rows = model._default_manager.using(using)
        old = rows.filter(**{f"{name}__lt": before}).order_by(name).values_list("pk", flat=True)[:HOUSEKEEPING_BATCH]
        keys: list[Any] = list(old)
        if keys:
            # In one order: two that maintain at once do not wait for each other in a circle.
            keys.sort()
            rows.filter(pk__in=keys).delete()
            found += len(keys)
    return found > 0
