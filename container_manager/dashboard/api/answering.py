"""Answer a request: find out who asks, check the permission, call the handler, and put errors into JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import get_conditional_response, set_response_etag
from django.views.decorators.csrf import csrf_exempt

from ..access import require
from ..job_acts import ActRefused
from ..search import SearchError
from .authentication import CsrfRefused, NotAuthenticated, user_of
from .requests import BadRequest
from .routes import Route


def view(routes: Mapping[str, Route]) -> Callable[..., HttpResponse]:
    """Return the view of a path, from its routes by method."""

    @csrf_exempt  # `user_of` sees to that
    def answer(request: HttpRequest, **path: Any) -> HttpResponse:
        method = "GET" if request.method == "HEAD" else str(request.method)
        try:
            request.user = user_of(request)
            if (route := routes.get(method)) is None:
                response = error_response(405, "method_not_allowed", f"Use {', '.join(sorted(routes))}.")
                response["Allow"] = ", ".join(sorted(routes))
                return response
            require(request.user, route.act)
            response = JsonResponse(route.handler(request, **path), status=route.status)
        except Exception as error:
            if (refusal := _refusal(error)) is None:
                raise
            return refusal
        # Nothing of it is kept by others, and what the client keeps it asks for again, by its ETag.
        response["Cache-Control"] = "private, no-cache"
        response["X-Content-Type-Options"] = "nosniff"
        response["Vary"] = "Authorization, Cookie"
        if method != "GET":
            return response
        set_response_etag(response)
        return get_conditional_response(request, etag=response["ETag"], response=response) or response

    return answer


def error_response(status: int, code: str, message: object, **more: Any) -> HttpResponse:
    """Return an error as all of the API's are."""
    response = JsonResponse({"code": code, "message": str(message), **more}, status=status)
    response["Cache-Control"] = "private, no-store"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _refusal(error: Exception) -> HttpResponse | None:
    """Return the answer to an error that is the client's; None for one of ours."""
    if isinstance(error, ValidationError):
        fields = error.message_dict if hasattr(error, "error_dict") else {}
        return error_response(400, "invalid", " ".join(error.messages), **({"fields": fields} if fields else {}))
    if isinstance(error, NotAuthenticated):
        response = error_response(401, "not_authenticated", error)
        response["WWW-Authenticate"] = "Bearer"
        return response
    for kind, status, code in (
        (CsrfRefused, 403, "csrf"),
        (PermissionDenied, 403, "forbidden"),
        (Http404, 404, "not_found"),
        (ActRefused, 409, "refused"),
        (SearchError, 400, "search"),
        (BadRequest, 400, "bad_request"),
        (RequestDataTooBig, 413, "too_large"),
    ):
        if isinstance(error, kind):
            return error_response(status, code, error)
    return None
