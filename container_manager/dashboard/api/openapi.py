"""The OpenAPI document, made of the routes: served as ``openapi.json``, and printed into the docs."""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpRequest

from .routes import ROUTES, Route
from .schemas import COMPONENTS, UUID, ref

_ERRORS = {
    "400": "The request is wrong; the message says how.",
    "401": "Nobody is logged in, or the token is not valid.",
    "403": "A permission is missing, or the CSRF token.",
    "404": "There is no such thing, or the user may not see it.",
    "409": "The job's status does not allow it.",
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document; its paths are relative to where the project has the API."""
    paths: dict[str, dict[str, Any]] = {}
    for route in (*ROUTES, SHOW_DOCUMENT):
        paths.setdefault(f"/{route.path}", {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "django-container-manager", "version": "1"},
        "servers": [{"url": "."}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": dict(COMPONENTS),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "sessionid"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    in_path = re.findall(r"\{(\w+)\}", route.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": UUID} for name in in_path]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()]
    errors = {
        status: {"description": text, "content": {"application/json": {"schema": ref("Error")}}}
        for status, text in _ERRORS.items()
        if status != "409" or route.method == "POST"
    }
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"Needs the permission {route.act.permission}.",
        "parameters": parameters,
        "responses": {
            str(route.status): {
                "description": "Done.",
                "content": {"application/json": {"schema": route.answer}},
            },
            **errors,
        },
    }
    if route.body:
        content = {"application/json": {"schema": ref(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _show_document(request: HttpRequest) -> dict[str, Any]:
    return document()


SHOW_DOCUMENT = Route(
    name="show_document",
    method="GET",
    path="openapi.json",
    summary="This document.",
    handler=_show_document,
    answer={"type": "object"},
)
