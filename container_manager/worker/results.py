"""Decide which results of attempts are stored: what a job hands out may be anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..executors.base import ExitStatus
from ..jobs.json_value import json_text, parsed_json

_REFUSED = "The job's result is not stored: {}"


def accepted_result(
    exit_status: ExitStatus, *, most_bytes: int, masked: Callable[[str], str] | None
) -> tuple[str | None, str]:
    """Return an attempt's result as JSON, None if there is none, and why it is refused, "" if it is not.

    ``masked``: takes the secrets out of a text; None: there are none.
    """
    if exit_status.result_refused:
        return None, _REFUSED.format(exit_status.result_refused)
    # An empty file is how executors that make it ahead say that there is none.
    if not exit_status.result:
        return None, ""
    try:
        if len(exit_status.result) > most_bytes:
            raise ValueError(f"It has more than {most_bytes} bytes.")
        value = parsed_json(exit_status.result)
        # Asks how deep it is, too.
        text = json_text(value, most_bytes=most_bytes)
        return (text if masked is None else json_text(_masked(value, masked), most_bytes=2 * most_bytes)), ""
    except ValueError as error:
        message = str(error) if masked is None else masked(str(error))
        return None, _REFUSED.format(message)


def _masked(value: Any, masked: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list):
        return [_masked(item, masked) for item in value]
    if isinstance(value, dict):
        return {masked(key): _masked(item, masked) for key, item in value.items()}
    return value
