"""Pages that stay up to date: their regions are sent again as JSON, those only that have changed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.http import parse_etags
from django.utils.safestring import SafeString

from .changes import can_wait

# In a page's query string: its regions are asked for, not the page.
LIVE = "live"


def live_page(
    request: HttpRequest, template: str, context: Mapping[str, Any], *, regions: Mapping[str, str]
) -> HttpResponse:
    """Return a page, or where ``live`` is asked for its regions as JSON: ``{"regions": {name: HTML}}``.

    ``regions``: name → template. No region may show what differs from one look to the next though nothing has changed,
    such as a CSRF token or a time that has passed. The ETag has a digest of each, so that the browser, which sends
    back the last one, gets only what has changed, and 304 if nothing has.
    """
    rendered = {name: render_to_string(part, dict(context), request) for name, part in regions.items()}
    if LIVE not in request.GET and LIVE not in request.POST:
        return render(request, template, {**context, "regions": rendered, "live": True, "can_wait": can_wait(request)})
    digests = [blake2b(html.encode(), digest_size=8).hexdigest() for html in rendered.values()]
    changed = _changed(rendered, digests, request.headers.get("If-None-Match", ""))
    response = JsonResponse({"regions": changed}) if changed else HttpResponse(status=304)
    response["ETag"] = f'"{"-".join(digests)}"'
    return response


def _changed(rendered: Mapping[str, SafeString], digests: list[str], known: str) -> dict[str, SafeString]:
    """Return the regions whose digests are not where ``known``, the header If-None-Match, has them."""
    # A weak one is what a middleware that compresses makes of it.
    etags = [etag.removeprefix("W/").strip('"').split("-") for etag in parse_etags(known)]
    seen = etags[0] if etags and len(etags[0]) == len(digests) else [""] * len(digests)
    return {name: html for (name, html), new, old in zip(rendered.items(), digests, seen, strict=True) if new != old}
