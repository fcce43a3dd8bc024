"""What a request carries: its JSON, and the numbers of its query string."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from django.http import HttpRequest

from ...jobs.json_value import refuse_constant

# What no database's integer holds is no number of a row.
_MOST = 2**31 - 1
_TYPES = {str: "a text", list: "a list"}


class BadRequest(Exception):
    """The request is not one that the API takes; the message says what is wrong."""


def json_body(request: HttpRequest, known: Mapping[str, Any], *, needed: Collection[str] = ()) -> dict[str, Any]:
    """Return the body's object, which has no other fields than these. Raises BadRequest.

    ``known``: by name, the type of the value; anything else than a type is not checked here.
    """
    if request.content_type != "application/json":
        raise BadRequest("Send JSON, with Content-Type: application/json.")
    try:
        given = json.loads(request.body, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON.") from error
    if not isinstance(given, dict):
        raise BadRequest("The body must be a JSON object.")
    if odd := sorted(set(given) - set(known)):
        raise BadRequest(f"Unknown: {', '.join(map(ascii, odd))}. Known: {', '.join(known)}.")
    if missing := [name for name in needed if name not in given]:
        raise BadRequest(f"Missing: {', '.join(missing)}.")
    for name, value in given.items():
        if isinstance(known[name], type) and not isinstance(value, known[name]):
            raise BadRequest(f"'{name}' must be {_TYPES[known[name]]}.")
    return given


def integer(request: HttpRequest, name: str, *, default: int, least: int = 0, most: int = _MOST) -> int:
    """Return a number of the query string. Raises BadRequest."""
    text = request.GET.get(name, "")
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise BadRequest(f"'{name}' must be a whole number from {least} to {most}.")
    return number
