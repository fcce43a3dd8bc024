"""What a task that has failed hands out as the result of its attempt."""

from __future__ import annotations

import json

# The dotted path of the exception's class, what is said of it in a line, and the text of its traceback.
EXCEPTION, MESSAGE, TRACEBACK = "exception", "message", "traceback"
MOST_MESSAGE_CHARACTERS = 500


def failure_message_of(result: bytes | None) -> str:
    """Return the line that an attempt has handed out of its exception; "" if it has not."""
    try:
        message = json.loads(result or b"null")[MESSAGE]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    return message[:MOST_MESSAGE_CHARACTERS] if isinstance(message, str) else ""
