"""Who may see and do what: the one statement of it, for the pages, the API and the admin.

Closed by default: without the permission a user sees nothing. A project's function (the setting ``VISIBLE_JOBS``)
narrows which jobs a user sees, and so acts on. The setting ``READ_ONLY`` forbids all acts.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import router
from django.utils.module_loading import import_string

from ..conf import app_settings
from ..models import ContainerJob
from ..querysets import ContainerJobQuerySet


class Act(StrEnum):
    """What needs a permission."""

    VIEW = "view"
    SUBMIT = "submit"
    CANCEL = "cancel"
    RETRY = "retry"
    PAUSE_QUEUES = "pause_queues"
    SEE_ENVIRONMENT = "see_environment"
    SEE_OUTPUT = "see_output"

    @property
    def permission(self) -> str:
        """The Django permission, as `has_perm` takes it; to view and to submit are Django's own view and add."""
        return f"container_manager.{_CODENAMES.get(self, self.value)}"

    @property
    def changes(self) -> bool:
        """Whether it changes anything; read-only mode forbids it then."""
        return self not in (Act.VIEW, Act.SEE_ENVIRONMENT, Act.SEE_OUTPUT)


_CODENAMES = {
    Act.VIEW: "view_containerjob",
    Act.SUBMIT: "add_containerjob",
    Act.CANCEL: "cancel_containerjob",
    Act.RETRY: "retry_containerjob",
}


def may(user: Any, act: Act, job: ContainerJob | None = None) -> bool:
    """Tell whether a user may do this, and to this job if one is given; not whether the job's status allows it.

    An act on a job needs that the user can see it (`visible_jobs`).
    """
    if (act.changes and app_settings().read_only) or not user.has_perm(act.permission):
        return False
    return job is None or can_see(user, job)


def require(user: Any, act: Act, job: ContainerJob | None = None) -> None:
    """Raise PermissionDenied, which says what is missing, unless the user may do this."""
    if act.changes and app_settings().read_only:
        raise PermissionDenied("Read-only mode: the setting READ_ONLY forbids every act.")
    if not may(user, act, job):
        raise PermissionDenied(f"The permission {act.permission} is needed.")


def can_see(user: Any, job: ContainerJob) -> bool:
    """Tell whether a job is among the user's `visible_jobs`: one query if the project has a rule, else none."""
    if not user.has_perm(Act.VIEW.permission):
        return False
    return not app_settings().visible_jobs or visible_jobs(user, using=job._state.db).filter(pk=job.pk).exists()


def visible_jobs(user: Any, using: str | None = None) -> ContainerJobQuerySet:
    """Return the jobs that a user may see: none without the permission, else all that the project's rule leaves."""
    jobs = ContainerJob.objects.using(using or router.db_for_read(ContainerJob)).all()
    if not user.has_perm(Act.VIEW.permission):
        return jobs.none()
    rule = visibility_rule()
    return rule(user, jobs) if rule else jobs


def visibility_rule() -> Callable[[Any, ContainerJobQuerySet], ContainerJobQuerySet] | None:
    """Return the project's function ``(user, queryset) -> queryset``, if it has one. Raises ImproperlyConfigured."""
    if not (path := app_settings().visible_jobs):
        return None
    try:
        rule: Callable[[Any, ContainerJobQuerySet], ContainerJobQuerySet] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"CONTAINER_MANAGER['VISIBLE_JOBS']: {error}") from error
    return rule
