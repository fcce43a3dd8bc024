"""The API's URLs, for ``path("jobs/api/v1/", include("container_manager.dashboard.api.urls"))``."""

from __future__ import annotations

import re
from collections import defaultdict

from django.urls import path

from .answering import view
from .openapi import SHOW_DOCUMENT
from .routes import ROUTES, Route

app_name = "container_manager_api"
_BY_PATH: dict[str, dict[str, Route]] = defaultdict(dict)
for _route in (*ROUTES, SHOW_DOCUMENT):
    _BY_PATH[_route.path][_route.method] = _route
urlpatterns = [
    path(re.sub(r"\{(\w+)\}", r"<uuid:\1>", _path), view(_routes), name=next(iter(_routes.values())).name)
    for _path, _routes in _BY_PATH.items()
]
