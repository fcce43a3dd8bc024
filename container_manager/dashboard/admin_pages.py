"""What the admin's pages have in common: texts that change nothing else, and rows that only the system writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import SimpleTemplateResponse

from ..jobs.printable import LINES, escaped
from .admin_list import BoundedPaginator

# Django's classes are generic only in the type stubs.
if TYPE_CHECKING:
    AnyModelAdmin = admin.ModelAdmin[Any]
else:
    AnyModelAdmin = admin.ModelAdmin


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


class ReadOnlyAdmin(EscapedPages, AnyModelAdmin):
    """Rows that only the system writes, the newest first. The list is neither counted nor sorted by anything else."""

    ordering = ("-pk",)
    sortable_by = ()
    paginator = BoundedPaginator
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
