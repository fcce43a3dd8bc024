"""Print one line for each missing part instead of one for each skipped test."""

from __future__ import annotations

from collections import Counter

import pytest

from .prerequisites import MISSING


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count skipped tests by missing part; a test of another database's behaviour lacks nothing."""
    # A report of a skipped test has the file, the line and the reason as its ``longrepr``.
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())]
    missing = Counter(reason for reason in reasons if reason.startswith(MISSING))
    for reason, count in sorted(missing.items()):
        terminalreporter.write_line(f"{reason}: {count} tests skipped.")
    if others := len(reasons) - missing.total():
        terminalreporter.write_line(f"About other databases: {others} tests skipped.")
