"""The admin: jobs with their history, and what only the system writes. Only actions change the status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import router
from django.db.models import Field, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _

from .conf import app_settings
from .dashboard.access import Act, may, visibility_rule
from .dashboard.admin_list import FILTERS, BoundedPaginator, JobChangeList, found_jobs, known_executors
from .dashboard.admin_pages import EscapedPages, ReadOnlyAdmin
from .dashboard.admin_rows import AttemptAdmin, AttemptInline, TransitionAdmin, TransitionInline
from .dashboard.job_acts import MOST_SELECTED, JobAct, act_on_some, report
from .jobs.container_request import REQUEST_RULES
from .jobs.printable import escaped
from .jobs.spec import CODE_FIELDS, PRIVATE_FIELDS, JobSpec
from .models import ContainerJob, JobAttempt, JobStatus, JobTransition, PausedQueue, Worker
from .querysets import ContainerJobQuerySet
from .queue import explain
from .statemachine.forms import RefusalsInAdmin, StateMachineModelForm
from .statemachine.machine import machine_of
from .store import unserved_destinations

# Of a job's output, on its page.
_SHOWN_CHARACTERS = 10_000
# Django's classes are generic only in the type stubs.
if TYPE_CHECKING:
    JobModelAdmin = admin.ModelAdmin[ContainerJob]
else:
    JobModelAdmin = admin.ModelAdmin


def _submitted_form(form: Any, request: HttpRequest) -> Any:
    class SubmittedForm(form):  # type: ignore[misc]
        def clean_executor(self) -> str:
            name: str = self.cleaned_data["executor"]
            known = known_executors(using=router.db_for_read(ContainerJob))
            if name not in known:
                text = _("There is no executor %(name)s. Known: %(known)s.")
                raise ValidationError(text % {"name": escaped(name), "known": escaped(", ".join(known))})
            return name

        def add_error(self, field: str | None, error: Any) -> None:
            """Show an error of a field that the form does not have, such as a read-only one, above the form."""
            for name, errors in getattr(error, "error_dict", {field: [error]}).items():
                if name in (None, NON_FIELD_ERRORS) or name in self.fields:
                    super().add_error(name, errors)
                else:
                    super().add_error(None, [f"{name}: {each}" for each in ValidationError(errors).messages])

        def _post_clean(self) -> None:
            # Where the job can be changed, whoever does so submits it.
            self.instance.submitter = request.user if "secrets" in self.fields else "nobody's change"
            super()._post_clean()

    return SubmittedForm


def _explanation(job: ContainerJob, *, quotes_errors: bool) -> str:
    found = explain(job, quotes_errors=quotes_errors)
    lines = format_html_join("", "<li>{}</li>", ((line,) for line in found.evidence))
    return format_html("{}<ul>{}</ul>{}", found.summary, lines, found.next_step)


@admin.register(ContainerJob)
class ContainerJobAdmin(EscapedPages, RefusalsInAdmin, JobModelAdmin):
    form = StateMachineModelForm
    list_display = ("short_name", "status", "queue", "priority", "attempt", "failure_reason", "created_at")
    list_filter = FILTERS
    sortable_by = ()
    paginator = BoundedPaginator
    # Counts for each filter would read all jobs.
    show_facets = admin.ShowFacets.NEVER
    # For the field to be shown; see `get_search_results`.
    search_fields = ("=name", "=id")
    search_help_text = _("An id, its beginning, or a name.")
    ordering = ("-pk",)
    # COUNT(*) on a large table takes longer than the page.
    show_full_result_count = False
    inlines = (TransitionInline, AttemptInline)
    actions = ("queue_jobs", "retry_jobs", "cancel_jobs", "kill_jobs")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ContainerJob]:
        """Return the jobs that the project's rule lets this user see."""
        jobs: Any = super().get_queryset(request)
        rule = visibility_rule()
        return rule(request.user, jobs) if rule else jobs

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Act.SUBMIT)

    def has_change_permission(self, request: HttpRequest, obj: ContainerJob | None = None) -> bool:
        # A changed command could print what its user may not see.
        seen = obj is None or obj.status != JobStatus.PENDING or may(request.user, Act.SEE_ENVIRONMENT)
        return super().has_change_permission(request, obj) and seen and not app_settings().read_only

    def has_delete_permission(self, request: HttpRequest, obj: ContainerJob | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not app_settings().read_only

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, set[str], Any]:
        """Return what goes with jobs; their attempts and journal, which nobody deletes by themselves, hold none up."""
        to_delete, counts, forbidden, protected = super().get_deleted_objects(objs, request)
        own = {str(model._meta.verbose_name) for model in (JobAttempt, JobTransition)}
        return to_delete, counts, forbidden - own, protected

    def has_submit_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Act.SUBMIT)

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Act.RETRY)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Act.CANCEL)

    def get_exclude(self, request: HttpRequest, obj: ContainerJob | None = None) -> list[str]:
        """Return what the system sets, and what this user may not see."""
        if obj is None:
            return ["created_by", *CODE_FIELDS]
        return [
            "created_by",
            *(() if may(request.user, Act.SEE_ENVIRONMENT) else PRIVATE_FIELDS),
            # It may quote output.
            *(() if may(request.user, Act.SEE_OUTPUT) else ["last_error"]),
        ]

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
        if obj is not None:
            names += CODE_FIELDS
            sees_output = may(request.user, Act.SEE_OUTPUT)
            names += [*(["explanation", "end_of_output"] if sees_output else ["explanation_without_errors"]), "id"]
        hidden = self.get_exclude(request, obj)
        return [name for name in dict.fromkeys(names) if name not in hidden]

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[ContainerJobQuerySet, bool]:
        """Find what the command line finds, by an index: to look inside of names would read all jobs."""
        jobs: ContainerJobQuerySet = queryset
        text = search_term.strip()
        return found_jobs(jobs, text) if text else jobs, False

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
        return _explanation(job, quotes_errors=True)

    @admin.display(description=_("explanation"))
    def explanation_without_errors(self, job: ContainerJob) -> str:
        """Say the same to who may not see output, which an error may quote."""
        return _explanation(job, quotes_errors=False)

    @admin.display(description=_("end of the output"))
    def end_of_output(self, job: ContainerJob) -> str:
        """Return the end of what the last attempt has printed."""
        text = job.output().decode(errors="replace")
        return format_html("<pre>{}{}</pre>", "…" if len(text) > _SHOWN_CHARACTERS else "", text[-_SHOWN_CHARACTERS:])

    @admin.display(description=_("job"), ordering="pk")
    def short_name(self, job: ContainerJob) -> str:
        return job.name or str(job.pk)

    @admin.action(description=_("Queue the selected pending jobs"), permissions=["submit"])
    def queue_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._act(request, jobs, JobAct.QUEUE)

    @admin.action(description=_("Run the selected finished jobs again"), permissions=["retry"])
    def retry_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._act(request, jobs, JobAct.RETRY)

    @admin.action(description=_("Cancel the selected jobs"), permissions=["cancel"])
    def cancel_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._act(request, jobs, JobAct.CANCEL)

    @admin.action(description=_("Cancel the selected jobs now, without a grace period"), permissions=["cancel"])
    def kill_jobs(self, request: HttpRequest, jobs: ContainerJobQuerySet) -> None:
        self._act(request, jobs, JobAct.KILL)

    def response_action(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse | None:
        """Refuse to act on all that match where that is more than a transaction should change."""
        if request.POST.get("select_across") == "1":
            shown: Any = self.get_changelist_instance(request)
            if not shown.can_act_on_all:
                text = _("More than %s jobs may match. Narrow the filters, or act on all that match in the dashboard.")
                self.message_user(request, text % MOST_SELECTED, messages.ERROR)
                return None
        return super().response_action(request, *args, **kwargs)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobChangeList]:
        return JobChangeList

    def _act(self, request: HttpRequest, jobs: ContainerJobQuerySet, act: JobAct) -> None:
        keys = list(jobs.values_list("pk", flat=True)[: MOST_SELECTED + 1])
        try:
            report(request, act_on_some(keys, act, user=request.user, using=jobs.db))
        except ValidationError as error:
            self.message_user(request, escaped(" ".join(error.messages)), messages.ERROR)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("id", "host", "pid", "queues", "executors", "slots", "started_at", "lease_expires_at")
    ordering = ("-lease_expires_at",)


@admin.register(PausedQueue)
class PausedQueueAdmin(ReadOnlyAdmin):
    list_display = ("name", "paused_at", "paused_by")


admin.site.register(JobAttempt, AttemptAdmin)
admin.site.register(JobTransition, TransitionAdmin)
