"""What a task that has failed hands out as the result of its attempt."""

from __future__ import annotations

import json

# The dotted path of the exception's class, and the text of its traceback.
EXCEPTION, TRACEBACK = "exception", "traceback"
_LINE_CHARACTERS = 500


def failure_line(result: bytes | None) -> str:
    """Return the last line of the traceback that an attempt has handed out, which names the exception; "" if none."""
    try:
        lines = json.loads(result or b"null")[TRACEBACK].strip().splitlines()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ""
    return lines[-1].strip()[:_LINE_CHARACTERS] if lines else ""
