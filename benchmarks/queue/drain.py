"""How fast a full queue is emptied, by one worker process and by four."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable

import psycopg

from .contenders.base import Contender

WORKERS = (1, 4)
Rates = dict[tuple[str, int], list[float]]


def measure_drains(
    contenders: Iterable[Contender], connection: psycopg.Connection, *, seconds: float, rounds: int
) -> Rates:
    """Return jobs per second by contender and number of workers, one figure a round; rounds are interleaved."""
    rates: Rates = {}
    contenders = list(contenders)
    for _ in range(rounds):
        for workers in WORKERS:
            for contender in contenders:
                count = int(contender.per_second * seconds)
                rate = drain(contender, connection, count=count, workers=workers)
                rates.setdefault((contender.name, workers), []).append(rate)
    return rates


def drain(contender: Contender, connection: psycopg.Connection, *, count: int, workers: int) -> float:
    """Return the jobs per second from the start signal to the end of the last worker."""
    contender.fill(connection, count)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.queue.work", contender.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(workers)
    ]
    try:
        for process in processes:
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"A worker of {contender.name} did not start.")
        start = time.monotonic()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if not all(ends):
        raise RuntimeError(f"A worker of {contender.name} failed.")
    if left := contender.unfinished(connection):
        raise RuntimeError(f"{contender.name} left {left} of {count} jobs.")
    return count / (max(map(float, ends)) - start)
