"""Compare this tree with another commit: ``python -m benchmarks.against REV [--rounds N] [--part PART] [--quick]``.

Both trees take turns; each runs its own benchmarks. Prints the median of the rounds' ratios for each figure: above 1
this tree is better. Exits with 1 if a ratio is below ``--least``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import end_when_told

_ROOT = Path(__file__).resolve().parents[2]
_QUEUE = Path(__file__).with_name("queue_of_a_tree.py")
_TRANSITIONS = ("transition_to()", "save() with a changed status", "bulk transition_to()")
_PARTS = ("transitions", "queue", "docker")
# Of these units less is better; of all others, more.
_TIMES = ("ms", "µs")
# By figure and unit.
_Figures = dict[tuple[str, str], float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("rev", metavar="REV", help="the other commit")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each tree; default: %(default)s")
    parser.add_argument("--part", choices=_PARTS, action="append", help="measure only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="shorter turns")
    parser.add_argument("--least", type=float, default=0.97, help="the least ratio; default: %(default)s")
    options = parser.parse_args()
    end_when_told()
    with _worktree(options.rev) as other:
        rounds = list(_rounds(other, options.part or _PARTS, count=options.rounds, quick=options.quick))
    ratios = _compare(rounds)
    return 0 if all(ratio >= options.least for ratio in ratios) else 1


@contextmanager
def _worktree(rev: str) -> Iterator[Path]:
    git = ["git", "-C", str(_ROOT), "worktree"]
    with tempfile.TemporaryDirectory(prefix="cm-against-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", tree, rev], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)


def _rounds(other: Path, parts: Sequence[str], *, count: int, quick: bool) -> Iterator[tuple[_Figures, _Figures]]:
    """Yield the figures of both trees, round by round; who begins changes with each round."""
    for number in range(count):
        trees = (_ROOT, other)
        found: dict[Path, _Figures] = {tree: {} for tree in trees}
        for part in parts:
            for tree in trees if number % 2 else reversed(trees):
                found[tree] |= _measure(tree, part, quick=quick)
        print(f"Round {number + 1} of {count} is done.", file=sys.stderr)
        yield found[_ROOT], found[other]


def _measure(tree: Path, part: str, *, quick: bool) -> _Figures:
    if part == "transitions":
        figures = _run(tree, "-m", "benchmarks.transitions")
        return {
            (f"{figure['database']}: {figure['subject']}", "µs"): figure["subject_microseconds"]
            for figure in figures
            if figure["subject"] in _TRANSITIONS
        }
    shorter = ["--quick"] if quick else []
    if part == "queue":
        # -P: the script's folder is not on the path, the tree is.
        figures = _run(tree, "-P", str(_QUEUE), *shorter)
    else:
        figures = [
            figure
            for only in ("launch", "throughput")
            for figure in _run(tree, "-m", "benchmarks.docker", "--only", only, *shorter)
        ]
    return {
        (figure["name"], figure["unit"]): figure["value"]
        for figure in figures
        if figure["unit"] != "times" and "raw API" not in figure["name"]
    }


def _run(tree: Path, *words: str) -> list[Mapping[str, Any]]:
    """Run a tree's benchmark in a process of its own; return the figures that it writes."""
    variables = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    with tempfile.TemporaryDirectory(prefix="cm-against-") as folder:
        file = Path(folder) / "figures.json"
        done = subprocess.run(
            [sys.executable, *words, "--json", str(file)],
            cwd=tree,
            env={**variables, "PYTHONPATH": str(tree)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        # A missed target is no failure here.
        if not file.exists():
            sys.exit(f"{' '.join(words)} measured nothing in {tree}:\n{done.stdout}")
        figures: list[Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return figures


def _compare(rounds: Sequence[tuple[_Figures, _Figures]]) -> list[float]:
    """Print a line for each figure; return the ratios."""
    print(f"{'figure':<60} {'this':>10} {'other':>10} {'':<7} {'ratio':>6}")
    ratios = []
    for key in rounds[0][0]:
        if not all(key in figures for pair in rounds for figures in pair):
            print(f"{key[0]:<60} is not a figure of both")
            continue
        pairs = [(this[key], other[key]) for this, other in rounds]
        faster = statistics.median(other / this if key[1] in _TIMES else this / other for this, other in pairs)
        this, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{key[0]:<60} {this:>10,.2f} {other:>10,.2f} {key[1]:<7} {faster:>6.2f}")
        ratios.append(faster)
    return ratios


if __name__ == "__main__":
    sys.exit(main())
