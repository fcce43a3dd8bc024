"""What a worker logs to stderr where the project's LOGGING does not see to that: plain lines, or a JSON object each."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
PACKAGE = "container_manager"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(line)


class PackageHandler(logging.StreamHandler):  # type: ignore[type-arg]  # only the stubs have arguments
    """The handler of this package's own, for stderr: whoever finds another one leaves it as it is."""


LINE_FORMATS = {"plain": lambda: logging.Formatter(LOG_FORMAT), "json": JsonLines}


def log_to_stderr(*, level: str | None, lines: str) -> None:
    """Log the package's messages to stderr, unless the project has a handler for them: then that one has them.

    ``level``: None: that of the project's ``LOGGING``, or INFO where it has neither a level nor a handler for them.
    Django's default ``LOGGING`` has handlers for Django's own loggers only.
    """
    logger = logging.getLogger(PACKAGE)
    ours = next((handler for handler in logger.handlers if isinstance(handler, PackageHandler)), None)
    if ours is None and not _is_handled(logger):
        ours = PackageHandler()
        logger.addHandler(ours)
    if ours is not None:
        ours.setFormatter(LINE_FORMATS[lines]())
        ours.setLevel(logging.NOTSET)
    if level is not None or (ours is not None and logger.level == logging.NOTSET):
        logger.setLevel(level or logging.INFO)


def _is_handled(logger: logging.Logger) -> bool:
    """Tell whether a logger's messages, or those of one below it, go somewhere."""
    known = list(logging.root.manager.loggerDict.items())
    below = [found for name, found in known if name.startswith(f"{PACKAGE}.") and isinstance(found, logging.Logger)]
    return logger.hasHandlers() or any(found.handlers for found in below)
