"""Measure tasks: ``python -m benchmarks.tasks [--quick] [--json FILE]``. Exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.queue.figures import Figure, table
from benchmarks.queue.server import server

from .contenders import CONTENDERS, Contender

_WORKERS = (1, 4)
# What each about drains in a second with one worker is found out by a first, short turn.
_FIRST, _LEAST, _MOST = 50, 50, 20_000


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    arguments.add_argument("--tasks", type=int, metavar="N", help="for the memory; 50000, and 5000 with --quick")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = arguments.parse_args()
    with server() as folder, _redis() as address:
        os.environ.update(BENCH_SOCKET=folder, DJANGO_SETTINGS_MODULE="benchmarks.tasks.settings", BENCH_REDIS=address)
        figures = list(_measure(quick=options.quick, tasks=options.tasks or (5_000 if options.quick else 50_000)))
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _measure(*, quick: bool, tasks: int) -> Iterator[Figure]:
    taking_part = {}
    for each in CONTENDERS.values():
        if each.obstacle:
            print(f"{each.name} does not take part: {each.obstacle}.", file=sys.stderr)
        else:
            _turn(each, "prepare")
            taking_part[each.name] = each
    yield from _drains(taking_part, rounds=1 if quick else 3, seconds=2.0 if quick else 4.0)
    yield from _starts(taking_part, samples=20 if quick else 60)
    yield from _memory(taking_part["ours"], tasks)


def _drains(taking_part: dict[str, Contender], *, rounds: int, seconds: float) -> Iterator[Figure]:
    rates: dict[tuple[str, int], list[float]] = {}
    for workers in _WORKERS:
        for name, each in taking_part.items():
            about = float(_turn(each, "drain", _FIRST, workers))
            count = int(min(_MOST, max(_LEAST, about * seconds)))
            rates[name, workers] = [float(count)]
    for _ in range(rounds):
        for workers in _WORKERS:
            for name, each in taking_part.items():
                rate = float(_turn(each, "drain", int(rates[name, workers][0]), workers))
                rates[name, workers].append(rate)
    for found in rates.values():
        del found[0]
    for workers in _WORKERS:
        for name, each in taking_part.items():
            said = f"; ended by {each.kills}" if each.kills else "; a running task cannot be ended"
            rate = statistics.median(rates[name, workers])
            yield Figure(name=f"drain, workers={workers}: {name}{said}", value=rate, unit="tasks/s")
    for workers in _WORKERS:
        for name, each in taking_part.items():
            if name != "ours":
                both = zip(rates["ours", workers], rates[name, workers], strict=True)
                ratio = statistics.median(ours / theirs for ours, theirs in both)
                least = 1.0 if each.kills else None
                yield Figure(name=f"drain, workers={workers}: ours / {name}", value=ratio, unit="times", at_least=least)


def _starts(taking_part: dict[str, Contender], *, samples: int) -> Iterator[Figure]:
    for name, each in taking_part.items():
        value = float(_turn(each, "start", samples)) * 1e3
        yield Figure(
            name=f"enqueue to start, p50: {name}", value=value, unit="ms", at_most=8.0 if name == "ours" else None
        )


def _memory(ours: Contender, tasks: int) -> Iterator[Figure]:
    parts = _turn(ours, "memory", tasks)
    for name in sorted(parts[0].keys() & parts[-1].keys()):
        # What is loaded once has been after the first of ten parts.
        yield Figure(name=f"memory after {tasks // 10} tasks: {name}", value=parts[0][name], unit="MiB")
        growth = parts[-1][name] / parts[0][name]
        yield Figure(
            name=f"memory after {tasks} / after {tasks // 10}: {name}", value=growth, unit="times", at_most=1.1
        )


def _turn(each: Contender, what: str, number: int = 0, workers: int = 1) -> Any:
    environment = {**os.environ, "BENCH_CONTENDER": each.name}
    command = [sys.executable, "-m", "benchmarks.tasks.turn", what, str(number), str(workers)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    print(f"{each.name}: {what}, {number}, {workers}: {done.stdout.strip()}", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis of the benchmark's own, by a socket; yield its address, "" if none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="cm-redis-") as folder:
        path = Path(folder) / "socket"
        # As durable as it commonly is: an append-only file that is synced each second.
        options = ["--port", "0", "--unixsocket", str(path), "--dir", folder, "--appendonly", "yes"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            while not path.exists() and process.poll() is None:
                time.sleep(0.05)
            yield f"redis+socket://{path}"
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
