"""Print figures, keep them in ``benchmarks/results.json``, and write them into README."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .measure import Figure

_FOLDER = Path(__file__).resolve().parent
_RESULTS = _FOLDER / "results.json"
_README = _FOLDER.parent / "README.md"


def report(figures: Sequence[Figure], chapter: str) -> int:
    """Print a chapter's figures and store them; return 1 where a target is missed."""
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        verdict = "" if figure.met else "  MISSED"
        sys.stdout.write(f"{figure.name:<{width}}  {figure.ratio:6.2f}  {figure.target}{verdict}\n")
    stored = json.loads(_RESULTS.read_text(encoding="utf-8")) if _RESULTS.exists() else {}
    stored[chapter] = [asdict(figure) for figure in figures]
    _RESULTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _write_readme(stored)
    return 0 if all(figure.met for figure in figures) else 1


def table(stored: dict[str, list[dict[str, object]]]) -> str:
    """Return the stored figures as a Markdown table."""
    lines = ["| measured | ratio | target |", "|---|---|---|"]
    for chapter in sorted(stored, reverse=True):
        for values in stored[chapter]:
            figure = Figure(**values)  # type: ignore[arg-type]  # as they were stored
            missed = "" if figure.met else " (missed)"
            lines.append(f"| {figure.name} | {figure.ratio:.2f} | {figure.target}{missed} |")
    return "\n".join(lines) + "\n"


def _write_readme(stored: dict[str, list[dict[str, object]]]) -> None:
    text = _README.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- figures[^>]*-->\n).*?(<!-- end of figures -->)", re.S)
    _README.write_text(pattern.sub(lambda m: m[1] + table(stored) + m[2], text), encoding="utf-8")
