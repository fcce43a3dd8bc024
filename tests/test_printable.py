"""The rule of printable texts, and what a logger does with texts that are not."""

from __future__ import annotations

import io
import logging

import pytest

from container_manager.jobs.package_log import package_logger
from container_manager.jobs.printable import LINES, check_printable, escaped

pytestmark = pytest.mark.without_database

UNPRINTABLE = {
    "escape": "\x1b", "NUL": "\0", "bell": "\a", "backspace": "\b", "delete": "\x7f", "C1 control": "\x9b",
    "line feed": "\n", "carriage return": "\r", "tab": "\t", "line separator": "\u2028", "override": "\u202e",
    "isolate": "\u2066", "surrogate": "\udc80",
}  # fmt: skip


@pytest.mark.parametrize("character", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_a_character_that_changes_other_text_is_refused_by_name_and_place(character: str) -> None:
    with pytest.raises(ValueError, match="at position 3 ") as error:
        check_printable(f"ab{character}c")
    assert character not in str(error.value)


@pytest.mark.parametrize("character", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_multiline_texts_allow_line_breaks_and_tabs_only(character: str) -> None:
    if character in "\t\n\r":
        check_printable(character, allowed=LINES)
    else:
        with pytest.raises(ValueError, match="position 1"):
            check_printable(character, allowed=LINES)


@pytest.mark.parametrize("text", ["naïve 名前 ✓", "می‌خواهم", "👩‍🚀", "a\u00a0b", "שלום\u200f (1)", "back\\slash"])
def test_words_of_any_language_are_printable_and_stay_unchanged(text: str) -> None:
    check_printable(text)
    assert escaped(text) == text


@pytest.mark.parametrize("character", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_an_escaped_text_is_printable(character: str) -> None:
    check_printable(escaped(f"a{character}"))
    assert escaped(character) == ascii(character)[1:-1]


def test_a_line_of_the_log_cannot_be_forged_by_a_text_or_an_error() -> None:
    logger, out = package_logger("container_manager.tests.forged"), io.StringIO()
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)
    try:
        logger.warning("Job %s failed: %s", "a\nERROR forged", ValueError("b\x1b[2J\nERROR forged"))
        try:
            raise ValueError("c\x1b[2J")
        except ValueError:
            logger.exception("It failed with %d", 7)
    finally:
        logger.removeHandler(handler)
    first, *rest = out.getvalue().splitlines()
    assert first == r"Job a\nERROR forged failed: b\x1b[2J\nERROR forged"
    assert rest[0] == "It failed with 7"
    assert rest[-1] == r"  ValueError: c\x1b[2J"
