"""The one rule of which characters a text may not have, since they change how what is around it is shown."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

# For texts that may have more than one line, such as a command with a script in it.
LINES = "\t\n\r"
# Control characters (escapes and line breaks among them), line and paragraph separators, those that embed, override or
# isolate a direction of writing (https://www.unicode.org/reports/tr9/), and surrogates, which nothing can encode.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def check_printable(text: str, *, allowed: str = "") -> None:
    """Raise ValueError, which names the character, for a text that is not shown as it is; ``allowed``: except these."""
    # To Python none of them is printable either, which it tells several times as fast as the pattern does.
    if text.isprintable():
        return
    for found in _UNPRINTABLE.finditer(text):
        if found[0] not in allowed:
            message = _("The character %(character)s at position %(position)d would change how lines are shown.")
            # Escaped, since this is shown too.
            raise ValueError(message % {"character": ascii(found[0]), "position": found.start() + 1})


def escaped(text: object, *, allowed: str = "") -> str:
    r"""Return a text as it can be shown in one line: what the rule forbids is written as ``\x1b`` or ``\u202e``."""
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in allowed else ascii(found[0])[1:-1], str(text))


def validate_line(text: str) -> None:
    """Validate a model's field of one line. Raises ValidationError."""
    _validate(text, allowed="")


def validate_lines(text: str) -> None:
    """Validate a model's field of any number of lines. Raises ValidationError."""
    _validate(text, allowed=LINES)


def validate_words(*, actor: str = "", reason: str = "") -> None:
    """Validate who does something, and why: what neither the journal nor who prints it should have to escape.

    ``reason`` may have more than one line. Raises ValidationError.
    """
    validate_line(actor)
    validate_lines(reason)


def _validate(text: str, *, allowed: str) -> None:
    # Any other type is another error.
    if isinstance(text, str):
        try:
            check_printable(text, allowed=allowed)
        except ValueError as error:
            raise ValidationError(str(error), code="unprintable") from error
