"""What a job's values must be, beyond what their columns hold; the job is looked at, not changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db.models import CharField, TextField
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from ..conf import app_settings
from ..jobs.container_request import container_request
from ..jobs.environment import check_environment, check_names
from ..jobs.json_value import MOST_ARGUMENT_BYTES, json_text
from ..jobs.printable import check_printable
from ..jobs.rules import is_positive
from ..jobs.secret_references import check_file_names, required_permission
from ..jobs.sizes import check_labels, check_path, check_sizes
from ..jobs.statuses import UniqueUntil

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
    _validate_objects(job)
    _validate_numbers(job)
    for name, check in _checks(job):
        # A text of another type was an error of `validate_types` already.
        if name in ("command", "working_directory") and not isinstance(getattr(job, name), str):
            continue
        try:
            check()
        except ValueError as error:
            raise ValidationError({name: str(error)}) from error


def _validate_objects(job: ContainerJob) -> None:
    for name in ("environment", "secrets", "secret_files", "labels"):
        value = getattr(job, name)
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise ValidationError({name: _("A JSON object of strings is needed.")})


def _validate_numbers(job: ContainerJob) -> None:
    if job.cpu_count is not None and not is_positive(job.cpu_count):
        raise ValidationError({"cpu_count": _("A finite number above zero is needed.")})
    if job.unique_seconds is not None and not job.unique_key:
        raise ValidationError({"unique_seconds": _("Without a unique_key it means nothing; give one.")})
    if job.unique_seconds is not None and job.unique_until != UniqueUntil.FINISHED:
        raise ValidationError({"unique_seconds": _("It replaces unique_until; give one of them.")})


def _checks(job: ContainerJob) -> Sequence[tuple[str, Callable[[], object]]]:
    """Return what is checked of which field, in this order; each raises ValueError."""
    return (
        ("command", lambda: _check_command(job)),
        ("environment", lambda: _check_environment(job)),
        ("secrets", lambda: check_names(job.secrets)),
        ("secrets", lambda: _check_secrets(job.secrets, submitter=job.submitter)),
        ("secret_files", lambda: check_file_names(job.secret_files)),
        ("secret_files", lambda: _check_secrets(job.secret_files, submitter=job.submitter)),
        ("labels", lambda: _check_labels(job.labels)),
        ("working_directory", lambda: check_path(job.working_directory)),
        ("container", lambda: container_request(job.container)),
        ("task_arguments", lambda: json_text(job.task_arguments, most_bytes=MOST_ARGUMENT_BYTES)),
    )


def _check_command(job: ContainerJob) -> None:
    try:
        argv = job.argv
    except ValueError as error:
        raise ValueError(_("The quoting is broken: %s. shlex.join() quotes a list of words.") % error) from error
    if not argv and not job.image:
        raise ValueError(_("Say what to run: a command, or an image that has one."))
    check_sizes(argv, {})


def _check_environment(job: ContainerJob) -> None:
    check_environment(job.environment)
    # The command alone has passed, so what is too large now is what it gets.
    check_sizes(job.argv if isinstance(job.command, str) else (), job.environment)


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


def _check_labels(labels: Mapping[str, str]) -> None:
    check_labels(labels)
    for text in (*labels, *labels.values()):
        check_printable(text)
