"""Who may see what is monitored: whoever sends the token of the settings, and users who may view jobs."""

from __future__ import annotations

from secrets import compare_digest
from typing import Any

from django.http import HttpRequest

from ..conf import app_settings
from ..jobs.package_log import package_logger
from ..jobs.secret_references import read_token

PERMISSION = "container_manager.view_containerjob"
_SCHEME = "Bearer "
logger = package_logger(__name__)


def has_token(request: HttpRequest) -> bool:
    """Tell whether a request brings the token of ``MONITORING_TOKEN``, compared in constant time."""
    given, reference = request.headers.get("Authorization", ""), app_settings().monitoring_token
    if reference is None or not given.startswith(_SCHEME):
        return False
    try:
        # At each request: a token can be replaced without a restart.
        token = read_token(reference)
    except LookupError as error:
        logger.error("%s", error)
        return False
    return compare_digest(given.removeprefix(_SCHEME).strip().encode(), token.encode())


def has_permission(request: HttpRequest) -> bool:
    """Tell whether a request is that of a user who may view jobs; it may ask the database for the user."""
    user: Any = getattr(request, "user", None)
    return user is not None and bool(user.has_perm(PERMISSION))


def is_anonymous(request: HttpRequest) -> bool:
    """Tell whether a request is that of no user."""
    user: Any = getattr(request, "user", None)
    return user is None or not user.is_authenticated
