"""The admin: jobs with their history. Only actions change the status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import router
from django.db.models import Field
from django.http import HttpRequest, HttpResponse
from django.template.response import SimpleTemplateResponse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .jobs.container_request import REQUEST_RULES
from .jobs.printable import LINES, escaped
from .jobs.spec import JobSpec
from .models import ContainerJob, JobAttempt, JobStatus, JobTransition
from .querysets import ContainerJobQuerySet
from .queue import explain, kill
from .statemachine.forms import RefusalsInAdmin, StateMachineModelForm
from .statemachine.machine import machine_of
from .store import unserved_destinations

# Of a job's output, on its page.
_SHOWN_CHARACTERS = 10_000
# Django's classes are generic only in the type stubs.
if TYPE_CHECKING:
    JobModelAdmin = admin.ModelAdmin[ContainerJob]
    JobInline = admin.TabularInline[Any, ContainerJob]
else:
    JobModelAdmin, JobInline = admin.ModelAdmin, admin.TabularInline


class EscapedPages:
    """A mixin for ``ModelAdmin``: its pages show no text, whoever wrote it, in a way that changes other texts."""

    def changelist_view(self, *args: Any, **kwargs: Any) -> HttpResponse:
        return _escaped(super().changelist_view(*args, **kwargs))  # type: ignore[misc]

    def changeform_view(self, *args: Any, **kwargs: Any) -> HttpResponse:
        return _escaped(super().changeform_view(*args, **kwargs))  # type: ignore[misc]

    def delete_view(self, *args: Any, **kwargs: Any) -> HttpResponse:
        return _escaped(super().delete_view(*args, **kwargs))  # type: ignore[misc]

    def history_view(self, *args: Any, **kwargs: Any) -> HttpResponse:
        return _escaped(super().history_view(*args, **kwargs))  # type: ignore[misc]


def _escaped(response: HttpResponse) -> HttpResponse:
    def escape(rendered: Any) -> None:
        # A line break is a space in HTML.
        rendered.content = escaped(rendered.content.decode(rendered.charset), allowed=LINES)

    if isinstance(response, SimpleTemplateResponse):
        response.add_post_render_callback(escape)
    return response


def _submitted_form(form: Any, request: HttpRequest) -> Any:
    class SubmittedForm(form):  # type: ignore[misc]
        def _post_clean(self) -> None:
            # Where the job can be changed, whoever does so submits it.
            self.instance.submitter = request.user if "secrets" in self.fields else "nobody's change"
            super()._post_clean()

    return SubmittedForm


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
        *("exit_code", "signal", "reason", "message", "result"),
    )
    ordering = ("number",)


@admin.register(ContainerJob)
class ContainerJobAdmin(EscapedPages, RefusalsInAdmin, JobModelAdmin):
    form = StateMachineModelForm
    list_display = ("short_name", "status", "queue", "priority", "attempt", "failure_reason", "created_at")
    list_filter = ("status", "queue", "executor", "failure_reason")
    # For the field to be shown; see `get_search_results`.
    search_fields = ("=name", "=id")
    search_help_text = _("An id, its beginning, or a name.")
    ordering = ("-pk",)
    # COUNT(*) on a large table takes longer than the page.
    show_full_result_count = False
    inlines = (TransitionInline, AttemptInline)
    actions = ("queue_jobs", "retry_jobs", "cancel_jobs", "kill_jobs")
    # Set by the system.
    exclude = ("created_by",)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Say what jobs wait for that no live worker serves."""
        if request.method == "GET":
            for executor, queue in unserved_destinations(using=router.db_for_read(ContainerJob)):
                text = _("No live worker serves executor %(executor)s in queue %(queue)s: its jobs wait.")
                self.message_user(
                    request, text % {"executor": escaped(executor), "queue": escaped(queue)}, messages.WARNING
                )
        return super().changelist_view(request, extra_context)

    def get_readonly_fields(self, request: HttpRequest, obj: ContainerJob | None = None) -> list[str]:
        """Return the fields that only a transition writes and, once the job was queued, its spec."""
        written = [*machine_of(ContainerJob).guarded, "created_at"]
        kept = ("scheduled_for",) if obj is None or obj.status == JobStatus.PENDING else ()
        names = [f.name for f in ContainerJob._meta.concrete_fields if f.attname in written and f.name not in kept]
        if obj is not None and obj.status != JobStatus.PENDING:
            names = [*JobSpec._fields, "scheduled_for", *names]
        return list(dict.fromkeys([*names, "explanation", "end_of_output", "id"] if obj is not None else names))

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[ContainerJobQuerySet, bool]:
        """Find what the command line finds, by an index: to look inside of names would read all jobs."""
        jobs: ContainerJobQuerySet = queryset
        if not (text := search_term.strip()):
            return jobs, False
        by_id = jobs.id_begins(text)
        return by_id if by_id.exists() else jobs.named(text), False

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        """List at the field what a job may request of its container."""
        if db_field.name == "container":
            wishes = "; ".join(f"{name}: {rule.expected}" for name, rule in REQUEST_RULES.items())
            kwargs["help_text"] = format_html(
                "{} {}.", _("A JSON object with any of these. What a job may have is its executor's to say."), wishes
            )
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _submitted_form(super().get_form(request, *args, **kwargs), request)

    def save_model(self, request: HttpRequest, obj: ContainerJob, form: Any, change: bool) -> None:
        if not change:
            obj.created_by = request.user.get_username()
        super().save_model(request, obj, form, change)

    @admin.display(description=_("explanation"))
    def explanation(self, job: ContainerJob) -> str:
        """Say why the job waits, what it does, or why it ended."""
        found = explain(job)
        lines = format_html_join("", "<li>{}</li>", ((line,) for line in found.evidence))
        return format_html("{}<ul>{}</ul>{}", found.summary, lines, found.next_step)

    @admin.display(description=_("end of the output"))
    def end_of_output(self, job: ContainerJob) -> str:
        """Return the end of what the last attempt has printed."""
        text = job.output().decode(errors="replace")
        return format_html("<pre>{}{}</pre>", "…" if len(text) > _SHOWN_CHARACTERS else "", text[-_SHOWN_CHARACTERS:])

    @admin.display(description=_("job"), ordering="pk")
    def short_name(self, job: ContainerJob) -> str:
        return job.name or str(job.pk)

    @admin.action(description=_("Queue the selected jobs"), permissions=["change"])
    def queue_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._move(request, jobs, JobStatus.QUEUED)

    @admin.action(description=_("Retry the selected failed jobs"), permissions=["change"])
    def retry_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._move(request, jobs, JobStatus.RETRYING)

    @admin.action(description=_("Cancel the selected jobs"), permissions=["change"])
    def cancel_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._move(request, jobs, JobStatus.CANCELLED)

    @admin.action(description=_("Kill what runs of the selected cancelled jobs"), permissions=["change"])
    def kill_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        count = kill(list(jobs.values_list("pk", flat=True)), using=jobs.db)
        text = ngettext("%(count)d attempt is being killed.", "%(count)d attempts are being killed.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS if count else messages.WARNING)

    def _move(self, request: HttpRequest, jobs: ContainerJobQuerySet, target: JobStatus) -> None:
        result = jobs.transition_to(target, actor=request.user)
        if result.changed:
            text = ngettext("%(count)d job is now %(status)s.", "%(count)d jobs are now %(status)s.", result.changed)
            self.message_user(request, text % {"count": result.changed, "status": target.label}, messages.SUCCESS)
        for status in sorted(set(map(str, result.refused.values()))):
            count = sum(1 for found in result.refused.values() if found == status)
            text = ngettext(
                "%(count)d job was left alone: %(source)s cannot become %(target)s.",
                "%(count)d jobs were left alone: %(source)s cannot become %(target)s.",
                count,
            )
            values = {"count": count, "source": JobStatus(status).label, "target": target.label}
            self.message_user(request, text % values, messages.WARNING)
