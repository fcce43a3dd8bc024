"""The dashboard's own tables in the admin: to read, and to revoke tokens."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from .admin_pages import ReadOnlyAdmin
from .models import ApiToken, AuditEntry, BulkAct


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("at", "actor", "act", "subject", "reason")


@admin.register(BulkAct)
class BulkActAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "actor", "act", "search", "examined", "changed", "finished_at", "note")


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """To delete a token revokes it."""

    list_display = ("user", "name", "created_at", "expires_at")
    fields = ("user", "name", "created_at", "expires_at")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        opts = self.opts
        return bool(request.user.has_perm(f"{opts.app_label}.delete_{opts.model_name}"))
