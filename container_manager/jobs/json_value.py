"""JSON values that jobs and callers hand over: those that every database stores and every reader can read."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# MariaDB's JSON functions, and with them the CHECK of its JSON columns, go 32 levels deep.
MOST_LEVELS = 30
# Of a task's arguments: each claim reads them.
MOST_ARGUMENT_BYTES = 256 * 1024
# PostgreSQL stores none of these.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def json_text(value: object, *, most_bytes: int) -> str:
    """Return a value as compact JSON.

    Raises ValueError, which says what is wrong with it: it is no JSON, too large, nested too deep, or has a character
    that some database cannot store.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(f"It is no JSON: {error}.") from error
    except RecursionError as error:
        raise ValueError(f"It has more than {MOST_LEVELS} levels.") from error
    except ValueError as error:
        raise ValueError(f"It is no JSON: {error}.") from error
    _check(value)
    if (size := len(text.encode())) > most_bytes:
        raise ValueError(f"It has {size} bytes, and {most_bytes} are allowed.")
    return text


def parsed_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raises ValueError, which says what is wrong with it."""
    try:
        return json.loads(data.decode(), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8: {error}.") from error
    except RecursionError as error:
        raise ValueError(f"It has more than {MOST_LEVELS} levels.") from error
    except ValueError as error:
        raise ValueError(f"It is no JSON: {error}.") from error


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN or Infinity; for ``parse_constant``."""
    raise ValueError(f"{name} is no number there")


def _check(value: object) -> None:
    """Raise ValueError for too many levels, or a text that some database cannot store."""
    level, nodes = 0, [value]
    while nodes:
        level += 1
        inner: list[Any] = []
        for node in nodes:
            if isinstance(node, dict):
                inner += [*node, *node.values()]
            elif isinstance(node, list | tuple):
                inner += node
            elif isinstance(node, str) and (found := _UNSTORABLE.search(node)):
                raise ValueError(f"It has the character {found[0]!a}, which not every database can store.")
        if level > MOST_LEVELS and inner:
            raise ValueError(f"It has more than {MOST_LEVELS} levels.")
        nodes = inner
