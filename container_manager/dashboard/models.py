"""The dashboard's tables: acts on all that match, the audit, and the API's tokens."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..jobs.identifiers import uuid7


class BulkAct(models.Model):
    """An act on all jobs that match a search, and how far it has come.

    ``user``: the key of who asked, whose permissions each batch checks again; ``actor``: the name in the journal.
    ``cursor``: where the next batch begins. ``examined``: how many jobs matched so far. ``refused``: how many jobs, by
    reason. ``note``: why it ended early, "" if it did not.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.CharField(max_length=255)
    actor = models.CharField(_("who"), max_length=255)
    act = models.CharField(_("act"), max_length=16)
    search = models.TextField(_("search"), blank=True)
    reason = models.TextField(_("reason"), blank=True)
    cursor = models.CharField(max_length=255, blank=True)
    examined = models.PositiveIntegerField(_("examined"), default=0)
    changed = models.PositiveIntegerField(_("changed"), default=0)
    refused = models.JSONField(_("refused"), default=dict)
    note = models.TextField(_("note"), blank=True)
    created_at = models.DateTimeField(_("begun"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True)

    class Meta:
        verbose_name = _("act on all that match")
        verbose_name_plural = _("acts on all that match")
        indexes = [models.Index(fields=["finished_at"], name="cm_bulk_unfinished")]

    def __str__(self) -> str:
        return f"{self.act} {self.search}"


class AuditEntry(models.Model):
    """An act that the journal of transitions does not hold."""

    at = models.DateTimeField(_("at"), default=timezone.now)
    actor = models.CharField(_("who"), max_length=255)
    act = models.CharField(_("act"), max_length=16)
    subject = models.CharField(_("of what"), max_length=255)
    reason = models.TextField(_("reason"), blank=True)

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["at"], name="cm_audit_at")]

    def __str__(self) -> str:
        return f"{self.actor}: {self.act} {self.subject}"


class ApiToken(models.Model):
    """A token of the API: a user's, whose permissions it has. ``digest``: SHA-256 of what the client sends."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    name = models.CharField(_("name"), max_length=100)
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(_("created at"), default=timezone.now)
    expires_at = models.DateTimeField(_("expires at"), null=True)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        indexes = [models.Index(fields=["expires_at"], name="cm_token_expiry")]
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="cm_token_name")]

    def __str__(self) -> str:
        return f"{self.user}: {self.name}"
