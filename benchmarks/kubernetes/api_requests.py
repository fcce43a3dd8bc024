"""How many requests an API server has answered, by its own metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Every request has a flow schema by who asks: this is that of service accounts outside of the control plane, which are
# the worker's and the bare client's.
_CLIENTS = re.compile(
    r'^apiserver_flowcontrol_dispatched_requests_total\{[^}]*flow_schema="service-accounts"[^}]*\} (\S+)$', re.M
)
_ALL = re.compile(r"^apiserver_request_total\{[^}]*\} (\S+)$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequests:
    """Requests so far: of the service account that is measured, and of everybody (nodes and controllers too)."""

    own: float
    everybody: float

    @classmethod
    def counted(cls, administrator: Any) -> ApiRequests:
        _, *request = administrator.param_serialize("GET", "/metrics", auth_settings=["BearerToken"])
        answer = administrator.call_api("GET", *request[:2]).read().decode()
        return cls(own=sum(_values(_CLIENTS, answer)), everybody=sum(_values(_ALL, answer)))

    def __sub__(self, other: ApiRequests) -> ApiRequests:
        return ApiRequests(own=self.own - other.own, everybody=self.everybody - other.everybody)

    def __truediv__(self, by: float) -> ApiRequests:
        return ApiRequests(own=self.own / by, everybody=self.everybody / by)


def _values(pattern: re.Pattern[str], text: str) -> Iterator[float]:
    return (float(value) for value in pattern.findall(text))
