"""Who asks: a bearer token's user, or the session's, whose unsafe requests then need the CSRF token.

Tokens of our own, since Django has none. A project with other ways to log in sets ``request.user`` in a middleware, as
for any view; its clients then send the CSRF token. A token has 256 random bits, so that one round of SHA-256 is enough:
who reads the table cannot use what is there.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone

from ..models import ApiToken

_PREFIX = "cmt_"
_SCHEME = "bearer "


class NotAuthenticated(Exception):
    """Nobody is logged in, or the token is not valid; the message says which."""


class CsrfRefused(Exception):
    """A request of a session without its CSRF token."""


class _CsrfCheck(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason


def new_token(user: Any, *, name: str, lifetime: timedelta | None) -> str:
    """Create a token for a user and return it; nothing can show it again."""
    token = _PREFIX + secrets.token_urlsafe(32)
    expires_at = timezone.now() + lifetime if lifetime is not None else None
    ApiToken.objects.create(user=user, name=name, digest=_digest(token), expires_at=expires_at)
    return token


def user_of(request: HttpRequest) -> Any:
    """Return the user who asks. Raises NotAuthenticated and CsrfRefused."""
    header = request.headers.get("Authorization", "")
    if header.lower().startswith(_SCHEME):
        return _user_of_token(header[len(_SCHEME) :].strip())
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        raise NotAuthenticated("Log in, or send a token: 'Authorization: Bearer …'.")
    # Here and not by the project's middleware, whose answer is a page; and whether or not the project has it.
    check = _CsrfCheck(_no_response)
    check.process_request(request)
    if reason := check.process_view(request, _no_response, (), {}):
        raise CsrfRefused(f"{reason} Send the cookie's token as X-CSRFToken.")
    return user


def _user_of_token(token: str) -> Any:
    valid = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    found = ApiToken.objects.filter(valid, digest=_digest(token)).select_related("user").first()
    if found is None or not found.user.is_active:
        raise NotAuthenticated("The token is not known, has expired, or its user is not active.")
    return found.user


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


_no_response: Callable[..., Any] = lambda request, *args, **kwargs: None  # noqa: E731
