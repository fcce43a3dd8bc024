"""Write the figures of ``benchmarks/results.json`` into README: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json
import re
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_README = _FOLDER.parent / "README.md"


def main() -> None:
    figures = json.loads((_FOLDER / "results.json").read_text(encoding="utf-8"))
    lines = ["| database | measured | ratio | target |", "|---|---|---|---|"]
    lines += [
        f"| {figure['database']} | {figure['subject']} / {figure['baseline']} | {figure['measured']:.2f} "
        f"| {figure['target']} |"
        for figure in figures
    ]
    text = _README.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- figures[^>]*-->\n).*?(<!-- end of figures -->)", re.DOTALL)
    _README.write_text(pattern.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
