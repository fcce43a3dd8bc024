"""Delete jobs that finished long ago, with their attempts, output and journal, batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.models import PROTECT, Model
from django.db.models.signals import post_delete, pre_delete

from ..jobs.package_log import package_logger
from ..models import FINISHED_STATUSES, ContainerJob, JobAttempt, JobLog, JobTransition
from ..statemachine.deadlocks import retries_deadlocks
from .isolation import isolated

PRUNE_BATCH = 500
_OURS = (ContainerJob, JobAttempt, JobTransition, JobLog)
logger = package_logger(__name__)


class Pruning:
    """Deletes old jobs batch by batch, the oldest of a status first, and looks at none twice.

    So jobs that stay, because something protects them, cost nothing after the first look; `restart` looks at them
    again.
    """

    def __init__(self, *, statuses: Collection[str] = FINISHED_STATUSES, using: str) -> None:
        self._statuses, self._using = list(statuses), using
        # By status the time and key of the job last looked at.
        self._seen: dict[str, tuple[datetime, UUID]] = {}
        self._said: set[str] = set()

    def restart(self) -> None:
        """Look at all jobs again."""
        self._seen.clear()

    def delete(self, *, before: datetime, size: int) -> tuple[int, bool]:
        """Delete a batch; return how many jobs, and whether there may be more."""
        size = min(size, PRUNE_BATCH)
        for status in self._statuses:
            if old := self._look(status, before, size):
                free = self._unprotected([pk for pk, _ in old])
                delete = partial(_delete, before=before, statuses=self._statuses, using=self._using)
                deleted = isolated(delete, free, refused=self._note_refusal, using=self._using)
                pk, at = old[-1]
                self._seen[status] = (at, pk)
                return len(deleted), True
        return 0, False

    def _look(self, status: str, before: datetime, size: int) -> list[tuple[UUID, Any]]:
        connection, options = connections[self._using], ContainerJob._meta
        # As in the condition of the partial index, which SQLite compares word by word. No planner knows what is in a
        # parameter when it looks for a partial index.
        finished = ", ".join(f"'{each}'" for each in FINISHED_STATUSES)
        where, params = [f"{options.db_table}.status IN ({finished}) AND {options.db_table}.status = '{status}'"], []
        if status in self._seen:
            # One comparison of both columns is one range of the index; MariaDB needs the second to see that.
            at, pk = f"{options.db_table}.status_changed_at", f"{options.db_table}.id"
            where.append(f"({at}, {pk}) > (%s, %s) AND {at} >= %s")
            changed_at = options.get_field("status_changed_at")
            moment, key = self._seen[status]
            moment = changed_at.get_db_prep_value(moment, connection)
            params = [moment, options.pk.get_db_prep_value(key, connection), moment]
        old = ContainerJob.objects.using(self._using).filter(status_changed_at__lt=before)
        old = old.order_by("status_changed_at", "pk")
        # Only words of ours.
        found = old.extra(where=where, params=params)  # noqa: S610
        return list(found.values_list("pk", "status_changed_at")[:size])

    def _unprotected(self, keys: Sequence[UUID]) -> Sequence[UUID]:
        """Leave out what other models protect. To find that out by trying takes many statements for each job."""
        for relation in _relations(ContainerJob):
            if relation.on_delete is PROTECT:
                field = relation.field
                rows = field.model._base_manager.using(self._using).filter(**{f"{field.name}__in": keys})
                if protected := set(rows.values_list(field.attname, flat=True)):
                    self._say(min(protected), f"{field.model._meta.label}.{field.name} protects it.")
                    keys = [key for key in keys if key not in protected]
        return keys

    def _note_refusal(self, job: UUID, error: Exception) -> None:
        # The first line names what refuses it; PostgreSQL's second line names the job.
        self._say(job, f"{type(error).__name__}: {error}".splitlines()[0])

    def _say(self, job: UUID, reason: str) -> None:
        """Log why a job stays, once for each reason."""
        if reason not in self._said:
            self._said.add(reason)
            logger.warning("Job %s is not pruned, nor are others for the same reason. %s", job, reason)


@retries_deadlocks
def _delete(keys: Sequence[UUID], *, before: datetime, statuses: Collection[str], using: str) -> Sequence[UUID]:
    if not keys:
        return []
    with transaction.atomic(using=using):
        # A failed job may have been retried since the first query. By key alone, and skipping locked rows: the index of
        # finished jobs would give the rows in another order, which ends in a deadlock.
        jobs = ContainerJob.objects.using(using).filter(pk__in=keys).order_by("pk").select_for_update(skip_locked=True)
        keys = [
            pk
            for pk, status, at in jobs.values_list("pk", "status", "status_changed_at")
            if status in statuses and at is not None and at < before
        ]
        rows = JobAttempt.objects.using(using).filter(job__in=keys).order_by("job", "number")
        free = set(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        attempts = list(rows.values_list("pk", "job", "finished_at"))
        busy = {job for pk, job, finished_at in attempts if finished_at is None or pk not in free}
        keys = [key for key in keys if key not in busy]
        if _others_take_part():
            # Django's way: it loads what it deletes, and does what other models and receivers of its signals declare.
            ContainerJob.objects.using(using).filter(pk__in=keys).delete()
            return keys
        closed = [pk for pk, job, _ in attempts if job not in busy]
        for model, condition in (
            (JobLog, {"attempt__in": closed}),
            (JobAttempt, {"pk__in": closed}),
            (JobTransition, {"job__in": keys}),
            (ContainerJob, {"pk__in": keys}),
        ):
            model._default_manager.using(using).filter(**condition)._raw_delete(using)
    return keys


def _others_take_part() -> bool:
    """Tell whether others than our tables have a say when our rows are deleted: models that refer to them, signals."""
    return any(
        pre_delete.has_listeners(model)
        or post_delete.has_listeners(model)
        or any(relation.field.model not in _OURS for relation in _relations(model))
        for model in _OURS
    )


def _relations(model: type[Model]) -> list[Any]:
    """Return the relations from other models to this one, with hidden ones, such as those of many-to-many fields."""
    fields = model._meta.get_fields(include_hidden=True)
    return [field for field in fields if field.auto_created and not field.concrete and not field.many_to_many]
