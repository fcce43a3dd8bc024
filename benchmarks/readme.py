"""Write the figures of each ``results.json``, here and in the folders, into README: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent
_README = _FOLDER.parent / "README.md"


def main() -> None:
    text = _README.read_text(encoding="utf-8")
    for block, path, lines in (
        ("figures", _FOLDER / "results.json", _transitions),
        ("queue figures", _FOLDER / "queue" / "results.json", _targeted),
        ("docker figures", _FOLDER / "docker" / "results.json", _targeted),
    ):
        if path.exists():
            text = _replaced(text, block, lines(json.loads(path.read_text(encoding="utf-8"))))
    _README.write_text(text, encoding="utf-8")


def _transitions(figures: list[dict[str, Any]]) -> Iterator[str]:
    yield from ("| database | measured | ratio | target |", "|---|---|---|---|")
    for figure in figures:
        measured = f"{figure['subject']} / {figure['baseline']}"
        yield f"| {figure['database']} | {measured} | {figure['measured']:.2f} | {figure['target']} |"


def _targeted(figures: list[dict[str, Any]]) -> Iterator[str]:
    yield from ("| measured | | target |", "|---|---|---|")
    # Times and rates are one machine's: only what has a target says something of others.
    for figure in figures:
        least, most = figure["at_least"], figure["at_most"]
        if target := f"≥ {least:g}" if least is not None else f"≤ {most:g}" if most is not None else "":
            missed = "" if figure["met"] else ", missed"
            yield f"| {figure['name']} | {figure['value']:.2f} {figure['unit']} | {target}{missed} |"


def _replaced(text: str, block: str, lines: Iterator[str]) -> str:
    pattern = re.compile(rf"(<!-- {block}:[^>]*-->\n).*?(<!-- end of {block} -->)", re.DOTALL)
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


if __name__ == "__main__":
    main()
