"""One turn of BENCH_CONTENDER, in a process of its own: ``python -m benchmarks.tasks.turn WHAT NUMBER WORKERS``.

Prints what it has measured as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import django
import psutil
import psycopg

from benchmarks.queue.server import address

from .contenders import Contender, contender

_PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.02
_WARM_UP = 20
# The name of the process of a task that is not there yet.
_WAITING = "cm-task-next"


@contextmanager
def workers(taking_part: Contender, count: int) -> Iterator[list[psutil.Process]]:
    """Run workers as a user starts them."""
    environment = {**os.environ, "BENCH_ROLE": "worker", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        yield from _workers(taking_part, count, environment, log)


def _workers(
    taking_part: Contender, count: int, environment: dict[str, str], log: IO[str]
) -> Iterator[list[psutil.Process]]:
    started = [
        psutil.Process(
            subprocess.Popen(
                [word.replace("{number}", str(number)) for word in taking_part.worker],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ).pid
        )
        for number in range(count)
    ]
    try:
        yield started
    except RuntimeError as error:
        log.seek(0)
        error.add_note(log.read()[-2000:])
        raise
    finally:
        for process in family(started):
            if process.is_running():
                process.terminate()
        _, alive = psutil.wait_procs(family(started), timeout=20)
        for process in alive:
            process.kill()


def family(started: list[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in started:
        if process.is_running():
            found += [process, *process.children(recursive=True)]
    return found


def await_none(taking_part: Contender, connection: psycopg.Connection) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while left := taking_part.unfinished(connection):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{taking_part.name} left {left} tasks.")
        time.sleep(_LOOK_SECONDS)


def drained_per_second(taking_part: Contender, connection: psycopg.Connection, count: int, number: int) -> float:
    """Return tasks per second of workers that have run some, were stopped while a queue was filled, and go on."""
    from .functions import noop

    with workers(taking_part, number) as started:
        # So that none is still starting: each gets some of these.
        for _ in range(3):
            taking_part.enqueue_many(noop, _WARM_UP * number)
            await_none(taking_part, connection)
            time.sleep(0.5)
        frozen = family(started)
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        taking_part.enqueue_many(noop, count)
        start = time.monotonic()
        for process in frozen:
            process.send_signal(signal.SIGCONT)
        await_none(taking_part, connection)
        return count / (time.monotonic() - start)


def started_after(taking_part: Contender, connection: psycopg.Connection, samples: int) -> list[float]:
    """Return the seconds from enqueue to the first line of the task, of an idle worker."""
    from .functions import mark, noop

    taken = []
    with tempfile.TemporaryDirectory() as folder, workers(taking_part, 1):
        taking_part.enqueue_many(noop, _WARM_UP)
        await_none(taking_part, connection)
        for number in range(samples):
            # So long that the worker has fallen back to waiting.
            time.sleep(0.15)
            path = Path(folder) / str(number)
            start = time.time_ns()
            taking_part.enqueue(mark, str(path))
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not path.exists():
                if time.monotonic() > deadline:
                    raise RuntimeError(f"A task of {taking_part.name} was not started.")
                time.sleep(0.001)
            taken.append((int(path.read_text()) - start) / 1e9)
    return taken


def memory(taking_part: Contender, connection: psycopg.Connection, count: int, steps: int = 10) -> list[dict[str, Any]]:
    """Return the resident MiB of the worker's long-lived processes, by name, after each part of many tasks."""
    from .functions import noop

    found = []
    with workers(taking_part, 1) as [worker]:
        for _ in range(steps):
            taking_part.enqueue_many(noop, count // steps)
            await_none(taking_part, connection)
            # So long that each keeper has forked the process of its next task.
            time.sleep(0.5)
            each: dict[str, float] = {}
            for process in family([worker]):
                if (name := process.name()) != _WAITING:
                    name = "worker" if process == worker else name
                    each[name] = max(each.get(name, 0.0), _mebibytes(process))
            found.append(each)
    return found


def _mebibytes(process: psutil.Process) -> float:
    """Return what a process has, with the one that waits for its next task; of what is shared, its part.

    That one is forked anew for each task, from all that its keeper has: what a keeper does not free, both have.
    """
    waiting = [child for child in process.children() if child.name() == _WAITING]
    return sum(each.memory_full_info().pss for each in [process, *waiting]) / 2**20


def main(what: str, number: int, count: int) -> None:
    taking_part = contender(os.environ["BENCH_CONTENDER"])
    django.setup()
    database = psycopg.connect(address(os.environ["BENCH_SOCKET"]), autocommit=True)
    with taking_part.connect(), database as connection:
        if what == "prepare":
            taking_part.prepare()
            value: Any = None
        elif what == "drain":
            value = drained_per_second(taking_part, connection, number, count)
        elif what == "start":
            value = statistics.median(started_after(taking_part, connection, number))
        else:
            value = memory(taking_part, connection, number)
    print(json.dumps(value))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
