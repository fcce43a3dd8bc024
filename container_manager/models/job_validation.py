"""What a job's values must be, beyond what their columns hold; the job is looked at, not changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db.models import CharField, TextField
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from ..conf import app_settings
from ..jobs.json_value import MOST_ARGUMENT_BYTES, json_text
from ..jobs.secret_references import required_permission
from ..jobs.statuses import UniqueUntil
from ..jobs.validity import InvalidField, check_job

if TYPE_CHECKING:
    from .container_job import ContainerJob


def validate_types(job: ContainerJob, *, exclude: Collection[str]) -> None:
    """Raise ValidationError, which names all of them, for fields of text that have a value of another type."""
    odd = {
        field.name: _("A text is needed, not a value of type %s.") % type(value).__name__
        for field in job._meta.concrete_fields
        if isinstance(field, CharField | TextField)
        and field.name not in exclude
        and not isinstance(value := job.__dict__.get(field.attname, ""), str | Promise | NoneType)
    }
    if "command" in odd:
        odd["command"] = _("A text is needed, not a value of type %s; shlex.join() makes one of a list.") % (
            type(job.command).__name__
        )
    if odd:
        raise ValidationError(odd)


def validate_values(job: ContainerJob) -> None:
    """Raise ValidationError for the first field whose value no job can have, or not together with the others."""
    if job.unique_seconds is not None and not job.unique_key:
        raise ValidationError({"unique_seconds": _("Without a unique_key it means nothing; give one.")})
    if job.unique_seconds is not None and job.unique_until != UniqueUntil.FINISHED:
        raise ValidationError({"unique_seconds": _("It replaces unique_until; give one of them.")})
    texts = {"command": job.command, "working_directory": job.working_directory}
    # One of another type was an error of `validate_types` already: any text stands for it here.
    others: dict[str, Any] = {name: "-" for name, text in texts.items() if not isinstance(text, str)}
    try:
        check_job(job.spec._replace(**others))
    except InvalidField as error:
        raise ValidationError({error.field: str(error)}) from error
    for name, check in _checks(job):
        try:
            check()
        except ValueError as error:
            raise ValidationError({name: str(error)}) from error


def _checks(job: ContainerJob) -> Sequence[tuple[str, Callable[[], object]]]:
    """Return what is asked of which field when a job is submitted, and not again at its launch."""
    return (
        ("secrets", lambda: _check_secrets(job.secrets, submitter=job.submitter)),
        ("secret_files", lambda: _check_secrets(job.secret_files, submitter=job.submitter)),
        ("task_arguments", lambda: json_text(job.task_arguments, most_bytes=MOST_ARGUMENT_BYTES)),
    )


def _check_secrets(references: Mapping[str, str], *, submitter: object) -> None:
    """Raise ValueError for a secret that no job may have, or none that this one's submitter asks for."""
    for reference in references.values():
        permission = required_permission(reference, app_settings().secrets)
        if permission and not _has_permission(submitter, permission):
            text = _("The secret %(reference)r is for those who have the permission %(permission)s; see 'actor'.")
            raise ValueError(text % {"reference": reference, "permission": permission})


def _has_permission(submitter: object, permission: str) -> bool:
    """Tell whether a user has a permission; a text is the name of code that has seen to that itself."""
    if isinstance(submitter, str):
        return bool(submitter)
    has_perm: Callable[[str], bool] | None = getattr(submitter, "has_perm", None)
    return has_perm is not None and has_perm(permission)
