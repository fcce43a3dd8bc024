"""Why a change of state was refused.

All are subclasses of ``ValueError``, so callers that only know the standard library can catch them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .graph import State


class TransitionError(ValueError):
    """Base of every refusal; the instance and its row are as they were before the call."""


class UnknownState(TransitionError):
    """The value names no state of the machine."""

    def __init__(self, value: object, states: Sequence[State]) -> None:
        self.value = value
        self.states = tuple(states)
        super().__init__(f"Unknown status {value!r}. Known statuses: {', '.join(map(str, states))}.")


class InvalidTransition(TransitionError):
    """The map has no such edge."""

    def __init__(
        self, *, pk: Any, source: State, target: State, allowed: Sequence[State], saving: bool = False
    ) -> None:
        self.pk = pk
        self.source = source
        self.target = target
        self.allowed = tuple(allowed)
        lead = (
            f"Invalid status transition: {source} -> {target}."
            if saving
            else f"Invalid transition from {source} to {target}."
        )
        rest = f" Valid transitions: {list(allowed)}" if allowed else f" Valid transitions: [] ({source} is terminal)"
        super().__init__(lead + rest)


class StaleTransition(TransitionError):
    """Somebody else moved the row first.

    ``found`` is the state in the database now, or None where it could not be read: the row is gone
    (`MissingRow`), or the transaction was already given up by the database.
    """

    def __init__(self, *, pk: Any, expected: State | None, found: State | None, message: str = "") -> None:
        self.pk = pk
        self.expected = expected
        self.found = found
        super().__init__(message or self._describe())

    def _describe(self) -> str:
        if self.expected is None and self.found is not None:
            return f"Row {self.pk} has changed since it was loaded; it is {self.found} now; call refresh_from_db()."
        if self.found is None:
            return (
                f"Row {self.pk} was changed by a concurrent transaction while it was expected to be {self.expected}; "
                "roll back and try again."
            )
        again = ", but it has moved since it was loaded" if self.found == self.expected else ""
        return f"Row {self.pk} was expected to be {self.expected}, found {self.found}{again}; call refresh_from_db()."


class MissingRow(StaleTransition):
    """The row does not exist in this database (any more)."""

    def __init__(self, *, pk: Any, expected: State | None, using: str) -> None:
        expectation = "" if expected is None else f" was expected to be {expected}"
        super().__init__(
            pk=pk,
            expected=expected,
            found=None,
            message=f"Row {pk}{expectation}: database {using!r} has no such row.",
        )


class UnsavedInstance(TransitionError):
    """A transition was to be written for an instance that has no row yet."""

    def __init__(self, model: str) -> None:
        super().__init__(f"This {model} has not been saved; save() it first, or pass save=False.")
