"""Spans of OpenTelemetry, where its API is installed: of submitting a job, and of each attempt from claim to end.

A job finds its trace in the variable TRACEPARENT (W3C Trace Context), which is part of its environment since it was
submitted. What is not installed, or not configured, costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

VARIABLE = "TRACEPARENT"
_NAME = "container_manager"
_CARRIER = VARIABLE.lower()


def is_recording() -> bool:
    """Tell whether somebody has configured where spans go; without that they cost as much, and go nowhere."""
    return IS_INSTALLED and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def submitting(count: int) -> Iterator[None]:
    """Be a span that submits so many jobs."""
    if not is_recording():
        yield
        return
    attributes = {f"{_NAME}.jobs": count}
    with trace.get_tracer(_NAME).start_as_current_span(
        "container job submit", kind=trace.SpanKind.PRODUCER, attributes=attributes
    ):
        yield


def in_this_trace(environment: Any) -> Any:
    """Return a job's environment with the variable that names the present trace, unless it has one or there is none."""
    if not IS_INSTALLED or not isinstance(environment, dict) or VARIABLE in environment:
        return environment
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {**environment, VARIABLE: carrier[_CARRIER]} if _CARRIER in carrier else environment


def record_attempt(
    environment: Mapping[str, Any], attributes: Mapping[str, str | int], *, seconds: float, error: str = ""
) -> None:
    """Record the span of an attempt that has ended now, after so many seconds, in the trace of its job.

    Only where spans are recorded (`is_recording`).
    """
    now = time.time_ns()
    parent = TraceContextTextMapPropagator().extract({_CARRIER: str(environment.get(VARIABLE, ""))})
    span = trace.get_tracer(_NAME).start_span(
        "container job attempt",
        context=parent,
        kind=trace.SpanKind.CONSUMER,
        attributes={f"{_NAME}.{name}": value for name, value in attributes.items()},
        start_time=now - int(seconds * 1e9),
    )
    if error:
        span.set_status(trace.StatusCode.ERROR, error)
    span.end(now)
