"""A job's attempts and journal in the admin, on its page and in lists of their own: only the system writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from ..models import ContainerJob, JobAttempt, JobTransition
from .access import Act, may, visibility_rule, visible_jobs
from .admin_list import found_jobs
from .admin_pages import ReadOnlyAdmin

# Of the jobs of a name, those whose rows are listed.
_MOST_FOUND = 100
_JOB_PAGE = "admin:container_manager_containerjob_change"
# What may quote a job's output.
_QUOTES_OUTPUT = ("message", "result", "progress")
# Django's classes are generic only in the type stubs.
if TYPE_CHECKING:
    JobInline = admin.TabularInline[Any, ContainerJob]
else:
    JobInline = admin.TabularInline


class ReadOnlyInline(JobInline):
    """Rows that only the system writes."""

    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class TransitionInline(ReadOnlyInline):
    model = JobTransition
    fields = ("at", "from_status", "to_status", "actor", "reason")


class AttemptInline(ReadOnlyInline):
    model = JobAttempt
    fields = (
        *("number", "worker", "executor", "launched_at", "waiting_for", "finished_at"),
        *("exit_code", "signal", "reason", "message", "result", "progress"),
    )
    ordering = ("number",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Leave out what the job has said, and the message, which may quote it, for who may not see output."""
        sees_output = may(request.user, Act.SEE_OUTPUT)
        return tuple(name for name in self.fields if sees_output or name not in _QUOTES_OUTPUT)


class OfAJob(ReadOnlyAdmin):
    """Rows of a job, of those jobs that the project's rule lets a user see."""

    search_fields = ("job",)
    search_help_text = _("A job's id, its beginning, or its name.")
    readonly_fields = ("job_link",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows.filter(job__in=visible_jobs(request.user, using=rows.db)) if visibility_rule() else rows

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find the rows of the newest jobs that the admin's search finds."""
        if not (text := search_term.strip()):
            return queryset, False
        jobs = found_jobs(visible_jobs(request.user, using=queryset.db), text)
        return queryset.filter(job__in=list(jobs.order_by("-pk").values_list("pk", flat=True)[:_MOST_FOUND])), False

    @admin.display(description=_("job"))
    def job_link(self, row: Any) -> str:
        return format_html('<a href="{}">{}</a>', reverse(_JOB_PAGE, args=[row.job_id]), row.job_id)


class AttemptAdmin(OfAJob):
    list_display = ("id", "job_link", "number", "worker", "launched_at", "finished_at", "exit_code", "reason")
    fields = (
        *("job_link", "number", "worker", "executor", "engine", "handle", "launched_at", "waiting_for", "finished_at"),
        *("exit_code", "signal", "reason", "peak_memory_bytes", "cpu_seconds", "message", "result", "progress"),
    )

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        sees_output = may(request.user, Act.SEE_OUTPUT)
        return tuple(name for name in self.fields if sees_output or name not in _QUOTES_OUTPUT)


class TransitionAdmin(OfAJob):
    list_display = ("at", "job_link", "from_status", "to_status", "actor", "reason")
    list_display_links = ("at",)
    fields = ("job_link", "at", "from_status", "to_status", "actor", "reason")
