"""What each view of the dashboard is behind: a login, a permission, and a Content-Security-Policy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.conf import global_settings, settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from .access import Act, require

_View = Callable[..., HttpResponseBase]
_NAMESPACE = "container_manager_dashboard"
# In the order of the tabs.
_TABS = (
    ("overview", _("Overview")),
    ("jobs", _("Jobs")),
    ("queues", _("Queues")),
    ("workers", _("Workers")),
    ("failures", _("Failures")),
)
_INTERVALS = (1, 2, 5, 10, 30)


def page_context(tab: str, title: str, *, interval: int = 5) -> dict[str, Any]:
    """Return what every page's template takes; ``interval``: after how many seconds a live one looks again."""
    return {
        "title": title,
        "tab": f"{_NAMESPACE}:{tab}",
        "tabs": [(f"{_NAMESPACE}:{name}", label) for name, label in _TABS],
        "intervals": _INTERVALS,
        "interval": interval,
    }


def page(act: Act = Act.VIEW, *, method: str = "GET") -> Callable[[_View], _View]:
    """Make a view that answers one method, and only users who may view jobs and do ``act``; others log in, or get 403.

    A view that knows of which job it is asks for more itself.
    """

    def decorate(view: _View) -> _View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _log_in(request)
            for needed in (Act.VIEW, act):
                require(request.user, needed)
            response = view(request, *args, **kwargs)
            # What the project sets by a middleware of its own is stricter or meant.
            response.headers.setdefault("Content-Security-Policy", content_security_policy())
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
            return response

        methods = ["GET", "HEAD"] if method == "GET" else [method]
        return never_cache(require_http_methods(methods)(guarded))

    return decorate


def content_security_policy() -> str:
    """Return a policy under which only the project's static files are run or style anything: no text of a job can."""
    host = urlsplit(static("container_manager_dashboard/dashboard.css"))
    files = f"{host.scheme}://{host.netloc}" if host.netloc else "'self'"
    return (
        f"default-src 'none'; script-src {files}; style-src {files}; img-src {files} data:; font-src {files}; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _log_in(request: HttpRequest) -> HttpResponse:
    """Return a redirection to where users log in; 403 to a script, which cannot."""
    if request.method != "GET" or "live" in request.GET:
        return HttpResponse("Log in first.", status=403, content_type="text/plain")
    url = None
    if settings.LOGIN_URL == global_settings.LOGIN_URL:
        # Where the project has not chosen a page, it may have that of the admin.
        try:
            url = reverse("admin:login")
        except NoReverseMatch:
            url = None
    return redirect_to_login(request.get_full_path(), url)
