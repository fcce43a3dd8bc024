"""Tasks for tests, declared as a project declares its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import django
from django.db import connections

from container_manager.models import ContainerJob
from container_manager.tasks import report_progress

if django.VERSION < (6, 0):
    from django_tasks import task
else:
    from django.tasks import task

LEAKED: list[str] = []


@task
def run_script(script: str) -> None:
    """Become a shell that runs a script."""
    sys.stdout.flush()
    os.execvp("sh", ["sh", "-c", script])  # noqa: S606, S607


@task
def add(first: Any, second: Any) -> Any:
    return first + second


@task
async def add_asynchronously(first: Any, second: Any) -> Any:
    return first + second


@task
def report_its_progress() -> None:
    for number in range(1, 4):
        report_progress(number, 10, "resizing")


@task(takes_context=True)
def describe(context: Any, name: str) -> dict[str, Any]:
    result = context.task_result
    sys.stdout.write(f"describing {name}\n")
    return {
        "attempt": context.attempt,
        "id": result.id,
        "status": result.status,
        "enqueued": result.enqueued_at is not None,
        "name": name,
    }


@task(takes_context=True)
def succeed_at_the_second_attempt(context: Any) -> int:
    if context.attempt < 2:
        raise ValueError("not yet")
    return int(context.attempt)


class Unpicklable(Exception):
    """Neither can be pickled nor shown."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no text either")


@task
def fail(kind: str) -> None:
    if kind == "unpicklable":
        raise Unpicklable
    if kind == "group":
        raise ExceptionGroup("several", [ValueError("first of them"), KeyError("second of them")])
    if kind == "long":
        raise ValueError("long \0 \ud800 " + "x" * 1_000_000 + " the end")
    if kind == "exit":
        sys.exit(3)
    if kind == "os._exit":
        os._exit(0)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(f"failed: {kind}")


@task
def return_what_is_no_json() -> object:
    return object()


@task
def return_too_much() -> str:
    return "x" * 1_000_000


@task
def allocate(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024))


@task
def touch(megabytes: int) -> None:
    """Take memory and write to it, so that it counts."""
    taken = [b"x" * 1024 * 1024 for _ in range(megabytes)]
    time.sleep(600)
    del taken


@task
def wait_for(gate: str, begun: str) -> str:
    Path(begun).touch()
    return Path(gate).read_text()


@task
def sleep(seconds: float, path: str) -> None:
    """Note that it sleeps, and in the end that it was told to stop."""
    try:
        # Who has read this may stop it at once.
        Path(path).write_text(str(os.getpid()))
        time.sleep(seconds)
    finally:
        Path(f"{path}.finally").touch()


@task
def sleep_and_clean_up(seconds: float, begun: str, gate: str) -> None:
    """Note that it sleeps and that it was told to stop, and end once it is told by the gate, a FIFO."""
    try:
        Path(begun).touch()
        time.sleep(seconds)
    finally:
        Path(f"{begun}.told").touch()
        Path(f"{begun}.finally").write_text(Path(gate).read_text())


@task
def leave_processes_behind(path: str) -> tuple[int, list[str]]:
    """Leave a child, and a daemon of its own session; return the daemon's pid and the command of both."""
    # No other test has it at this time, here or in another process that runs tests.
    command = ["sleep", f"600.{os.getpid()}"]
    subprocess.Popen(command, close_fds=False)
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        Path(path).write_text(str(os.getpid()))
        os.execvp("sleep", command)  # noqa: S606, S607
    while not (Path(path).exists() and Path(path).read_text()):
        time.sleep(0.01)
    return int(Path(path).read_text()), command


@task
def close_all_descriptors() -> int:
    os.closerange(0, 4096)
    return 5


@task
def print_much(lines: int) -> int:
    for number in range(lines):
        sys.stdout.write(f"line {number} {'x' * 80}\n")
    return lines


@task
def leak(name: str) -> list[str]:
    LEAKED.append(name)
    return LEAKED


@task
def use_the_database() -> dict[str, Any]:
    inherited = [connection.alias for connection in connections.all(initialized_only=True) if connection.connection]
    key = os.environ["CONTAINER_MANAGER_JOB"]
    return {"inherited": inherited, "status": ContainerJob.objects.get(pk=key).status}


@task(takes_context=True)
def sleep_in_the_first_attempt(context: Any, path: str) -> int:
    if context.attempt == 1:
        Path(path).write_text(str(os.getpid()))
        time.sleep(600)
    return int(context.attempt)
