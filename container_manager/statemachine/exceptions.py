"""The errors of refused transitions.

All are subclasses of ``ValueError``, so that callers can catch them without importing this package. All can be pickled,
as process pools and parallel test runners do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from .graph import State


class TransitionError(ValueError):
    """Base of all refusals. The instance and its row are unchanged."""

    # What `as_validation_error` says; its parameters are the attributes of the error.
    validation_code: ClassVar[str] = "transition_refused"
    validation_message: ClassVar[Any] = _("This change of status was refused.")

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited way calls the class with the message, which these classes do not take.
        return _rebuilt, (type(self), self.args), self.__dict__

    def as_validation_error(self) -> ValidationError:
        """Return the refusal as an error of a form, in words for its user."""
        return ValidationError(self.validation_message, code=self.validation_code, params=vars(self))


def _rebuilt(cls: type[TransitionError], args: tuple[Any, ...]) -> TransitionError:
    """Return an error without calling its ``__init__``; the unpickler then sets its attributes."""
    return cls.__new__(cls, *args)


class UnknownState(TransitionError):
    """The value is not a state of the machine."""

    validation_code = "unknown_state"
    validation_message = _("Unknown status %(value)s.")

    def __init__(self, value: object, states: Sequence[State]) -> None:
        self.value = value
        self.states = tuple(states)
        super().__init__(f"Unknown status {value!r}. Known statuses: {', '.join(map(str, states))}.")


class InvalidTransition(TransitionError):
    """The map does not have this edge."""

    validation_code = "invalid_transition"
    validation_message = _("Invalid transition from %(source)s to %(target)s.")

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
    """The row changed after the instance was loaded.

    ``found``: the state in the database now; None if it could not be read, because the row does not exist
    (`MissingRow`) or the database has aborted the transaction.
    """

    validation_code = "stale_transition"
    validation_message = _("This was changed by somebody else meanwhile. Open it again to see how it is now.")

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
    """The row does not exist in this database, or no longer does."""

    validation_code = "missing_row"
    validation_message = _("This does not exist any more.")

    def __init__(self, *, pk: Any, expected: State | None, using: str) -> None:
        expectation = "" if expected is None else f" was expected to be {expected}"
        super().__init__(
            pk=pk,
            expected=expected,
            found=None,
            message=f"Row {pk}{expectation}: database {using!r} has no such row.",
        )


class UnsavedInstance(TransitionError):
    """The instance has no row yet, so its transition cannot be written."""

    def __init__(self, model: str) -> None:
        super().__init__(f"This {model} has not been saved; save() it first, or pass save=False.")
