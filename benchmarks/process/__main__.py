"""Measure the process executor: ``python -m benchmarks.process [--quick] [--json FILE]``.

Worker and executor take turns with plain subprocesses in one run. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from container_manager.executors.base import LaunchSpec
from container_manager.executors.process import ProcessExecutor

from ..queue.figures import Figure, table
from .drain import SLOTS, bare_pool, measure_drain

# So long that warden and keeper wait.
_IDLE_SECONDS = 0.05
_BURST_JOBS = 100
_keys = map(str, itertools.count())


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.process", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = arguments.parse_args()
    figures = [*_executor_figures(quick=options.quick), *_worker_figures(quick=options.quick)]
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _executor_figures(*, quick: bool) -> list[Figure]:
    executor = ProcessExecutor()
    try:
        latency = _in_turns(executor, _first_output, _bare_first_output, rounds=20 if quick else 100)
        burst = _in_turns(executor, _burst, lambda: bare_pool(_BURST_JOBS), rounds=3 if quick else 10)
    finally:
        executor.close()
    unit = "times a plain subprocess"
    return [
        Figure(name="local process: launch to first output", value=statistics.median(latency), unit=unit, at_most=3.0),
        Figure(name=f"local processes: {_BURST_JOBS} jobs, {SLOTS} at once", value=statistics.median(burst), unit=unit),
    ]


def _worker_figures(*, quick: bool) -> list[Figure]:
    rates = measure_drain(jobs=300 if quick else 1000, rounds=3 if quick else 9)
    mine, bare = zip(*rates, strict=True)
    ratio = statistics.median(one / other for one, other in rates)
    return [
        Figure(name=f"local processes, SQLite, {SLOTS} slots", value=statistics.median(mine), unit="jobs/s"),
        Figure(name=f"bare pool of {SLOTS} subprocesses", value=statistics.median(bare), unit="jobs/s"),
        Figure(
            name=f"drain, SQLite: a worker with {SLOTS} slots / a bare pool of {SLOTS} subprocesses",
            value=ratio,
            unit="times",
            at_least=0.4,
        ),
    ]


def _in_turns(
    executor: ProcessExecutor,
    measure: Callable[[ProcessExecutor], float],
    measure_bare: Callable[[], float],
    *,
    rounds: int,
) -> list[float]:
    """Return how many times as long as the bare one it takes, round by round; the first only warms up."""
    ratios = []
    for _ in range(rounds + 1):
        time.sleep(_IDLE_SECONDS)
        ratios.append(measure(executor) / measure_bare())
    return ratios[1:]


def _first_output(executor: ProcessExecutor) -> float:
    key, began = next(_keys), time.perf_counter()
    executor.submit(LaunchSpec(key=key, argv=("echo", "x")))
    while not executor.logs(key, "", 100).chunks:
        time.sleep(0.0001)
    seconds = time.perf_counter() - began
    while not any(found.exit for found in executor.observe().attempts):
        executor.watch(0.01)
    executor.remove(key)
    return seconds


def _bare_first_output() -> float:
    began = time.perf_counter()
    with subprocess.Popen(["echo", "x"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return time.perf_counter() - began


def _burst(executor: ProcessExecutor, jobs: int = _BURST_JOBS) -> float:
    began, left, running = time.perf_counter(), jobs, 0
    while left or running:
        for found in executor.observe().attempts:
            if found.exit:
                executor.remove(found.key)
                running -= 1
        while left and running < SLOTS:
            executor.submit(LaunchSpec(key=next(_keys), argv=("true",)))
            left, running = left - 1, running + 1
        if running:
            executor.watch(0.05)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
