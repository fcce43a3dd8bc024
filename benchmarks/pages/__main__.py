"""Measure the dashboard's pages: ``python -m benchmarks.pages [--jobs N] [--most N] [--json FILE]``.

PostgreSQL with ``--jobs`` and with ``--most``, MariaDB and SQLite with ``--jobs``, each on a server of its own with the
journal's durability of production. The two sizes take turns, so that what disturbs the machine disturbs both. Exit code
1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from tests.servers import end_when_told, mariadb

from ..server import postgresql

MOST_QUERIES, MOST_SECONDS, MOST_RATIO = 12, 0.150, 1.3
_DATABASES = ("PostgreSQL", "MariaDB", "SQLite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What one page takes; ``ratio``: its p95 with the most jobs, in relation to this; null if that is not measured."""

    database: str
    jobs: int
    page: str
    queries: int
    median_seconds: float
    p95_seconds: float
    most_jobs: int | None = None
    ratio: float | None = None

    @property
    def missed(self) -> list[str]:
        return [
            name
            for name, is_missed in (
                ("queries", self.queries > MOST_QUERIES),
                ("seconds", self.p95_seconds > MOST_SECONDS),
                ("ratio", self.ratio is not None and self.ratio > MOST_RATIO),
            )
            if is_missed
        ]


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    arguments.add_argument("--jobs", type=int, default=1_000_000, help="how many jobs there are (1,000,000)")
    arguments.add_argument(
        "--most", type=int, default=10_000_000, help="how many on PostgreSQL, too (10,000,000); 0: none"
    )
    arguments.add_argument("--databases", nargs="+", choices=_DATABASES, default=_DATABASES)
    arguments.add_argument("--rounds", type=int, default=40, help="how often each page is asked for (40)")
    arguments.add_argument("--folder", type=Path, help="where the databases are kept meanwhile")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = arguments.parse_args()
    end_when_told()
    visits = list[Visit]()
    for database in options.databases:
        sizes = [options.jobs]
        if database == "PostgreSQL" and options.most:
            sizes.append(options.most)
        for visit in _measure(database, sizes, rounds=options.rounds, folder=options.folder):
            print(_line(visit), flush=True)
            visits.append(visit)
    if options.json:
        document = [{**asdict(visit), "missed": visit.missed} for visit in visits]
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(visit.missed for visit in visits) else 0


def _measure(database: str, sizes: Sequence[int], *, rounds: int, folder: Path | None) -> Iterator[Visit]:
    with ExitStack() as stack:
        started = [stack.enter_context(_measured(database, size, folder)) for size in sizes]
        queries = [json.loads(_answer(process)) for process in started]
        for page in queries[0]:
            seconds = [[_ask(process, page) for process in started] for _ in range(rounds + 1)][1:]
            p95 = [quantiles(figures, n=20)[-1] for figures in zip(*seconds, strict=True)]
            yield Visit(
                database=database,
                jobs=sizes[0],
                page=page,
                queries=max(each[page] for each in queries),
                median_seconds=median(figures[0] for figures in seconds),
                p95_seconds=p95[0],
                most_jobs=sizes[1] if len(sizes) > 1 else None,
                ratio=p95[1] / p95[0] if len(sizes) > 1 else None,
            )


@contextmanager
def _measured(database: str, size: int, parent: Path | None) -> Iterator[subprocess.Popen[str]]:
    """Run a database with so many jobs, and what measures it."""
    with tempfile.TemporaryDirectory(prefix="cm-pages-", dir=parent) as name, ExitStack() as stack:
        folder, environment = Path(name), {**os.environ, "DJANGO_SETTINGS_MODULE": "benchmarks.pages.settings"}
        if database == "PostgreSQL":
            environment |= {"CM_TEST_SOCKET": str(stack.enter_context(postgresql(folder)))}
        elif database == "MariaDB":
            environment |= stack.enter_context(mariadb(folder, "--innodb-buffer-pool-size=1G"))
        environment |= {"CM_TEST_DATABASE": database.lower(), "CM_TEST_FOLDER": name}
        command = [sys.executable, "-m", "benchmarks.pages.measuring", str(size)]
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
        try:
            yield process
        finally:
            # Its input's end is its own, unless it is still at filling.
            process.terminate()


def _ask(process: subprocess.Popen[str], page: str) -> float:
    assert process.stdin is not None
    process.stdin.write(f"{page}\n")
    process.stdin.flush()
    return float(_answer(process))


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"What measures the pages ended with {process.wait()}.")
    return line


def _line(visit: Visit) -> str:
    ratio = "" if visit.ratio is None else f"  {visit.ratio:5.2f} times with {visit.most_jobs}"
    missed = f"  MISSED: {', '.join(visit.missed)}" if visit.missed else ""
    return (
        f"{visit.database:<11}{visit.page:<36}{visit.queries:>3} queries  p95 {visit.p95_seconds * 1e3:7.1f} ms  "
        f"median {visit.median_seconds * 1e3:7.1f} ms{ratio}{missed}"
    )


if __name__ == "__main__":
    sys.exit(main())
