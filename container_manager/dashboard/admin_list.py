"""The admin's list of jobs: pages and filters of the dashboard's search, so that it reads no more than that does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.paginator import Paginator
from django.db import router
from django.db.models.expressions import Combinable
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from ..conf import app_settings
from ..jobs.printable import escaped
from ..models import ContainerJob, FailureReason, JobStatus, Worker
from ..querysets import ContainerJobQuerySet
from ..store import known_queues
from .job_acts import MOST_SELECTED
from .search import EXAMINED, Count, JobSearch, Page, Search, SearchError, parse

# Django's class is generic only in the type stubs.
if TYPE_CHECKING:
    AnyPaginator = Paginator[Any]
else:
    AnyPaginator = Paginator


class BoundedPaginator(AnyPaginator):
    """For what Django pages by itself, such as the choices of a field: it counts so far and no further."""

    @cached_property
    def count(self) -> int:
        jobs: Any = self.object_list
        return int(jobs[:EXAMINED].count())


def known_executors(*, using: str) -> list[str]:
    """Return the executors that the settings or live workers name, sorted."""
    live = Worker.objects.live().using(using)
    served = [name for executors in live.values_list("executors", flat=True) for name in executors]
    return sorted({*app_settings().executors, *served})


def found_jobs(jobs: ContainerJobQuerySet, text: str) -> ContainerJobQuerySet:
    """Return the jobs whose id begins so; if there are none, those of that name."""
    by_id = jobs.id_begins(text)
    return by_id if by_id.exists() else jobs.named(text)


class _Filter(admin.SimpleListFilter):
    """A filter whose choices are known without asking the jobs. ``qualifier``: the search's name of it."""

    parameter_name = ""
    qualifier = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        """Return what is known, and what is asked for: without a choice Django would leave the filter out."""
        known = [*self.known()]
        value = self.value()
        return known if value is None or value in dict(known) else [*known, (value, escaped(value))]

    def known(self) -> Iterable[tuple[Any, Any]]:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset if self.value() is None else queryset.filter(**{self.parameter_name: self.value()})


class StatusFilter(_Filter):
    title = _("status")
    parameter_name = qualifier = "status"

    def known(self) -> Iterable[tuple[Any, Any]]:
        return JobStatus.choices


class QueueFilter(_Filter):
    title = _("queue")
    parameter_name = qualifier = "queue"

    def known(self) -> Iterable[tuple[Any, Any]]:
        return [(name, name) for name in known_queues(using=router.db_for_read(ContainerJob))]


class ExecutorFilter(_Filter):
    title = _("executor")
    parameter_name = qualifier = "executor"

    def known(self) -> Iterable[tuple[Any, Any]]:
        return [(name, name) for name in known_executors(using=router.db_for_read(ContainerJob))]


class ReasonFilter(_Filter):
    title = _("failure reason")
    parameter_name, qualifier = "failure_reason", "reason"

    def known(self) -> Iterable[tuple[Any, Any]]:
        return FailureReason.choices


FILTERS = (StatusFilter, QueueFilter, ExecutorFilter, ReasonFilter)


class JobChangeList(ChangeList):
    """Pages by cursor, the newest first, each by an index; ``p`` in the query string is the cursor."""

    page: Page
    count: Count

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[str | Combinable]:
        """Return the one order there is: any other would sort all jobs."""
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        """Take a page of the search that the filters are."""
        jobs: Any = self.queryset
        try:
            search = self._search(request)
            found = JobSearch(jobs, search)
            self.page, self.count = found.page(request.GET.get(PAGE_VAR, ""), self.list_per_page), found.count()
        except SearchError as error:
            raise IncorrectLookupParameters(error) from error
        self.result_list = list(self.page.rows)
        # Django offers to select all that match where these are more than those of the page.
        self.result_count = self.count.number if self.can_act_on_all else len(self.result_list)
        self.full_result_count = self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = bool(self.result_list)
        self.can_show_all = self.multi_page = False
        self.paginator = self.model_admin.get_paginator(request, self.queryset, self.list_per_page)

    @property
    def can_act_on_all(self) -> bool:
        """Whether all that match are known, and no more than one transaction should change."""
        return not self.count.is_more and self.count.number <= MOST_SELECTED

    def newer(self) -> str:
        """Return the query string of the page before; "" if there is none."""
        return self.get_query_string({PAGE_VAR: self.page.previous}) if self.page.previous else ""

    def older(self) -> str:
        """Return the query string of the next page; "" if there is none."""
        return self.get_query_string({PAGE_VAR: self.page.next}) if self.page.next else ""

    def _search(self, request: HttpRequest) -> Search:
        given = [(each.qualifier, request.GET.get(each.parameter_name, "")) for each in FILTERS]
        if text := self.query.strip():
            # As `ContainerJobAdmin.get_search_results` finds it.
            is_id = ContainerJob.objects.using(self.queryset.db).id_begins(text).exists()
            given.append(("id" if is_id else "name", text))
        return parse(str(Search(terms=tuple((name, (value,)) for name, value in given if value))))
