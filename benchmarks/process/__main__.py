"""Measure the process executor: ``python -m benchmarks.process [--quick]``.

Wardens that fork ahead nothing, the next job's keeper, or its command too take turns in one run, beside plain
subprocesses.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import time
from collections.abc import Callable
from unittest import mock

from container_manager.executors.base import LaunchSpec
from container_manager.executors.process import ProcessExecutor, warden_link

from ..queue.figures import Figure, table

_SLOTS = 4
# So long that a warden has forked ahead what it forks ahead.
_IDLE_SECONDS = 0.05
_NO_KEEPER = """
from warden import keeper_pool
keeper_pool.KeeperPool.fork_ahead = lambda pool: None
"""
_NO_COMMAND = """
from warden import keeper
class Late:
    def __init__(self, *arguments, **options):
        self.given = arguments, options
    def start(self, *launch):
        channel = self.given[0][0]
        command = Command(channel, **self.given[1])
        self.pid = command.pid
        return command.start(*launch)
Command, keeper.WaitingCommand = keeper.WaitingCommand, Late
"""
_VARIANTS = {"nothing": _NO_KEEPER + _NO_COMMAND, "keeper": _NO_COMMAND, "keeper and command": ""}
_BARE = "plain subprocess"
_keys = map(str, itertools.count())


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.process", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds")
    quick = arguments.parse_args().quick
    executors = {name: _executor(patch) for name, patch in _VARIANTS.items()}
    try:
        latency = _in_turns(executors, _first_output, _bare_first_output, rounds=20 if quick else 100)
        rate = _in_turns(executors, _burst, _bare_burst, rounds=3 if quick else 10)
    finally:
        for executor in executors.values():
            executor.close()
    print(table([*_figures("idle, launch to first output, forked ahead", latency), *_figures("burst", rate)]))


def _figures(what: str, seconds: dict[str, list[float]]) -> list[Figure]:
    bare = seconds[_BARE]
    return [
        Figure(
            name=f"{what}: {name}",
            value=statistics.median(mine / theirs for mine, theirs in zip(found, bare, strict=True)),
            unit="times a plain subprocess",
        )
        for name, found in seconds.items()
        if name != _BARE
    ]


def _executor(patch: str) -> ProcessExecutor:
    program = warden_link._PROGRAM.replace("from warden.dispatch", f"{patch}from warden.dispatch")
    with mock.patch.object(warden_link, "_PROGRAM", program):
        executor = ProcessExecutor()
        if not executor.check().ok:
            raise RuntimeError("The warden did not start.")
    return executor


def _in_turns(
    executors: dict[str, ProcessExecutor],
    measure: Callable[[ProcessExecutor], float],
    measure_bare: Callable[[], float],
    *,
    rounds: int,
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in (*executors, _BARE)}
    for turn in range(rounds + 1):
        for name, executor in executors.items():
            time.sleep(_IDLE_SECONDS)
            found = measure(executor)
            if turn:
                seconds[name].append(found)
        if turn:
            seconds[_BARE].append(measure_bare())
    return seconds


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


def _burst(executor: ProcessExecutor, jobs: int = 100) -> float:
    began, left, running = time.perf_counter(), jobs, 0
    while left or running:
        for found in executor.observe().attempts:
            if found.exit:
                executor.remove(found.key)
                running -= 1
        while left and running < _SLOTS:
            executor.submit(LaunchSpec(key=next(_keys), argv=("true",)))
            left, running = left - 1, running + 1
        if running:
            executor.watch(0.05)
    return time.perf_counter() - began


def _bare_burst(jobs: int = 100) -> float:
    began = time.perf_counter()
    running = [subprocess.Popen(["true"]) for _ in range(_SLOTS)]
    for _ in range(jobs - _SLOTS):
        running.pop(0).wait()
        running.append(subprocess.Popen(["true"]))
    for process in running:
        process.wait()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
