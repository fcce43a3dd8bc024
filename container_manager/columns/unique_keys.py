"""The refusal of a unique key that another job holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.db import IntegrityError
from django.utils.translation import gettext_lazy as _

from ..statemachine import TransitionError

# The constraint's name and the column's: every database names one of them in its error.
KEY_CONSTRAINT = "cm_job_unique_key"
_NAMED = "unique_key"


class UniqueKeyHeld(TransitionError):
    """Another job holds the unique key, so this one is neither created nor run again. ``key``: "" if not known."""

    validation_code: ClassVar[str] = "unique_key_held"
    validation_message: ClassVar[Any] = _("Another job holds its unique key. Try again when that one has ended.")

    def __init__(self, key: str = "") -> None:
        self.key = key
        named = f" {key!r}" if key else ""
        super().__init__(
            f"Another job holds the unique key{named}: wait until it has ended, or cancel it, and try again."
        )


def is_key_conflict(error: IntegrityError) -> bool:
    """Tell whether a row was refused because of its unique key."""
    return _NAMED in str(error)


@contextmanager
def refusing_held_keys(key: str = "") -> Iterator[None]:
    """Raise UniqueKeyHeld where the database refuses a row because of its unique key."""
    try:
        yield
    except IntegrityError as error:
        if not is_key_conflict(error):
            raise
        raise UniqueKeyHeld(key) from error
