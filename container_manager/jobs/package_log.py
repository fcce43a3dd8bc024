"""Loggers whose lines nobody can forge by what a job, an engine or a database says."""

from __future__ import annotations

import logging
from textwrap import indent

from .printable import escaped

_FORMATTER = logging.Formatter()


def package_logger(name: str) -> logging.Logger:
    """Return a logger that escapes the texts and errors that are put into its lines, and indents tracebacks."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape)
    return logger


def _escape(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(escaped(arg) if isinstance(arg, str | BaseException) else arg for arg in record.args)
    if record.exc_info:
        # Formatters print this where it is set. Indented, since a line of an error's text must not look like a record.
        record.exc_text = indent(escaped(_FORMATTER.formatException(record.exc_info), allowed="\t\n"), "  ")
    return True
