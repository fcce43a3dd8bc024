"""The views of what is monitored."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_not_required
from django.db import Error, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .bearer import has_permission, has_token, is_anonymous
from .health import HealthReport, look_for_trouble

_NOT_INSTALLED = "Metrics need prometheus-client: pip install 'django-container-manager[metrics]'.\n"
_CLOSED = "Send the token of the setting MONITORING_TOKEN, or log in as a user who may view jobs.\n"
_View = Callable[[HttpRequest], HttpResponse]


def _closed(view: _View) -> _View:
    """Let nobody in without the token or the permission; redirect nobody to a login page."""

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        try:
            allowed = has_token(request) or has_permission(request)
        except Error as error:
            # The session is in the database.
            return _answer(HealthReport(reasons=(f"The database does not answer: {type(error).__name__}.",)))
        if allowed:
            return view(request)
        status, headers = (401, {"WWW-Authenticate": "Bearer"}) if is_anonymous(request) else (403, {})
        return HttpResponse(_CLOSED, status=status, headers=headers, content_type="text/plain; charset=utf-8")

    # What is asked of a database that is away must not need a transaction there.
    return transaction.non_atomic_requests(login_not_required(never_cache(require_safe(guarded))))


@_closed
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics, in Prometheus' text format or OpenMetrics, as the client asks."""
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
    except ImportError:
        return HttpResponse(_NOT_INSTALLED, status=501, content_type="text/plain; charset=utf-8")
    from .collector import JobsCollector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobsCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)


@_closed
def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if jobs are being run, else 503 with the reasons."""
    return _answer(look_for_trouble())


def _answer(report: HealthReport) -> HttpResponse:
    values = {"healthy": report.is_healthy, "reasons": list(report.reasons), "workers": report.workers}
    return JsonResponse(values, status=200 if report.is_healthy else 503)
