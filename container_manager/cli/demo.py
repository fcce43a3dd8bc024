"""``python -m container_manager demo``: run jobs through their life cycle, on a temporary database."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..executors.docker_variables import docker_daemon
from .standalone import CONFIG_VARIABLE, DATABASE_VARIABLE, configure

if TYPE_CHECKING:
    from ..executors.base import Executor
    from ..models import ContainerJob

_CONFIG = """\
POLL_SECONDS = 0.2
RETRY = {{INITIAL_SECONDS = 0.5}}
INSTALL = "demo-{install}"
"""
# Generous: a busy machine is slow.
_LIMIT_SECONDS = 180
_REDRAW_SECONDS = 0.2
_CANNOT = 2
_DEFAULT_IMAGE = "busybox"
_MISSING_IMAGE = "no-such-image"
# Name → fields, and the expected status, failure reason and number of attempts.
_Cast = Mapping[str, tuple[Mapping[str, Any], tuple[str, str, int]]]
_JOBS: _Cast = {
    "hello": ({"command": "sh -c 'echo Hello from a job'"}, ("completed", "", 1)),
    "second try": (
        {"command": "sh -c 'test $CONTAINER_MANAGER_ATTEMPT -gt 1 || { echo failing once >&2; exit 3; }'"},
        ("completed", "", 2),
    ),
    "endless": ({"command": "sh -c 'while :; do sleep 0.1; done'"}, ("cancelled", "", 1)),
    "too slow": (
        {"command": "sleep 60", "timeout_seconds": 1, "grace_seconds": 1, "max_retries": 0},
        ("failed", "timeout", 1),
    ),
    "no such": ({"command": "no-such-program --help"}, ("failed", "start", 1)),
}
_CONTAINER_JOBS: _Cast = {
    **_JOBS,
    "no image": ({"command": "true", "image": _MISSING_IMAGE, "executor": "never-pulls"}, ("failed", "image", 1)),
}


def main(arguments: Sequence[str] = (), out: TextIO = sys.stdout) -> int:
    """Run the demo. Return 0 if every job ended as expected, 1 if not, 2 if no engine is available."""
    parser = argparse.ArgumentParser(prog="python -m container_manager demo", description=main.__doc__)
    parser.add_argument("--executor", choices=["process", *_ENGINES], default="process", help="Default: %(default)s.")
    parser.add_argument("--image", help=f"In containers: an image that has sh. Default: {_DEFAULT_IMAGE}.")
    parser.add_argument("--namespace", help="With kubernetes: where jobs run. Default: the kubeconfig's.")
    options = parser.parse_args(arguments)
    if options.image and options.executor == "process":
        parser.error("--image is for --executor docker or kubernetes: local processes have none.")
    if options.namespace and options.executor != "kubernetes":
        parser.error("--namespace is for --executor kubernetes.")
    engine = _ENGINES.get(options.executor)
    image = (options.image or _DEFAULT_IMAGE) if engine else ""
    with tempfile.TemporaryDirectory(prefix="container-manager-demo-") as name:
        folder = Path(name)
        config = folder / "config.toml"
        executors = engine.config(image, options.namespace) if engine else ""
        config.write_text(_CONFIG.format(install=uuid.uuid4().hex[:8]) + executors)
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
        os.environ[CONFIG_VARIABLE] = str(config)
        os.environ[DATABASE_VARIABLE] = str(folder / "demo.sqlite3")
        configure()
        say, parts = _Narrator(out), f"A database of its own: SQLite in {folder}. A worker: a real process."
        if engine is None:
            say(f"{parts} Jobs: real commands.")
            return _play(_JOBS, image, say)
        try:
            with _engine(engine.advice) as words:
                say(f"{parts} Jobs: {engine.jobs} of the image {image}. {words}")
                return _play(_CONTAINER_JOBS, image, say)
        except _NoEngine as error:
            sys.stderr.write(f"{error}\n")
            return _CANNOT


class _NoEngine(Exception):
    """No engine is available; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """What runs containers. ``options`` returns an executor's, for a namespace; ``jobs``: what jobs are there."""

    backend: str
    options: Callable[[str | None], Mapping[str, object]]
    jobs: str
    advice: str

    def config(self, image: str, namespace: str | None) -> str:
        """Return settings for two executors on the engine; only one of them pulls images."""
        given = {**self.options(namespace), "images": [image, _MISSING_IMAGE]}
        options = [f"{name} = {_toml(value)}" for name, value in given.items()]
        lines = []
        for alias, pull in (("default", "missing"), ("never-pulls", "never")):
            lines += [f"[EXECUTORS.{alias}]", f"BACKEND = {_toml(self.backend)}"]
            lines += [f"[EXECUTORS.{alias}.OPTIONS]", *options, f'pull = "{pull}"']
        return "\n".join(lines) + "\n"


_ENGINES: Mapping[str, _Engine] = {
    "docker": _Engine(
        backend="container_manager.executors.docker.DockerExecutor",
        options=lambda namespace: docker_daemon(os.environ),
        jobs="containers",
        advice="The demo needs a Docker daemon: start one, or name one in the variable DOCKER_HOST; your user must be "
        "allowed to use it.",
    ),
    "kubernetes": _Engine(
        backend="container_manager.executors.kubernetes.KubernetesExecutor",
        options=lambda namespace: {"namespace": namespace} if namespace else {},
        jobs="Kubernetes Jobs",
        advice="The demo needs a Kubernetes cluster: name the file of one in the variable KUBECONFIG, as for kubectl; "
        "you must be allowed to create Jobs there.",
    ),
}


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


@contextmanager
def _engine(advice: str) -> Iterator[str]:
    """Yield a description of the engine; remove all that it holds of the demo afterwards. Raises _NoEngine."""
    from django.core.exceptions import ImproperlyConfigured

    from ..conf import app_settings
    from ..executors.base import ExecutorError
    from ..executors.registry import build_executor

    try:
        executor = build_executor(app_settings(), "default")
    except ImproperlyConfigured as error:
        raise _NoEngine(str(error)) from error
    health = executor.check()
    if not health.ok:
        raise _NoEngine(f"{health.message}\n{advice}")
    try:
        yield health.message
    finally:
        with suppress(ExecutorError):
            _remove_all(executor)
        executor.close()


def _remove_all(executor: Executor) -> None:
    asked = time.monotonic()
    while (held := executor.observe()).as_of < asked and time.monotonic() < asked + _LIMIT_SECONDS:
        executor.watch(1.0)
    for attempt in held.attempts:
        executor.remove(attempt.handle)


def _play(cast: _Cast, image: str, say: _Narrator) -> int:
    from ..models import ContainerJob
    from ..statemachine import TransitionError

    jobs = _submit(cast, image)
    command = [sys.executable, "-m", "container_manager", "worker", "--slots", "4", "--log-level", "ERROR"]
    worker = subprocess.Popen(command)  # noqa: S603  # our own interpreter and module
    try:
        endless = jobs["endless"]
        _watch(jobs, say, until=lambda: endless.status == ContainerJob.Status.RUNNING or _is_over(endless))
        if endless.status == ContainerJob.Status.RUNNING:
            say("The job named endless runs for ever. It is cancelled while it runs:")
            # A job that could not start has failed by now: the verdict will say so.
            with suppress(TransitionError):
                endless.mark_as_cancelled(actor="demo", reason="took too long")
        _watch(jobs, say, until=lambda: all(_is_over(job) for job in jobs.values()))
    finally:
        worker.terminate()
        worker_code = worker.wait(timeout=_LIMIT_SECONDS)
    if jobs["hello"].status == ContainerJob.Status.COMPLETED:
        _show_refusals(jobs["hello"], say)
    _show_journal(jobs["second try"], say)
    return _verdict(cast, jobs, worker_code, say)


def _submit(cast: _Cast, image: str) -> dict[str, ContainerJob]:
    from ..models import ContainerJob

    jobs: dict[str, ContainerJob] = {}
    for name, (columns, _) in cast.items():
        jobs[name] = ContainerJob.objects.create_job(**{"name": name, "image": image, "created_by": "demo", **columns})
        jobs[name].mark_as_queued(actor="demo")
    return jobs


def _is_over(job: ContainerJob) -> bool:
    return job.is_finished and not job.attempts.filter(finished_at=None).exists()


class _Narrator:
    """Prints paragraphs, and a table that is redrawn in place on a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lines, self._shown = out, 0, ""

    def __call__(self, text: str) -> None:
        self._out.write(f"\n{text}\n")
        self._lines, self._shown = 0, ""
        self._out.flush()

    def line(self, text: str) -> None:
        self._out.write(f"    {text}\n")

    def table(self, jobs: Sequence[ContainerJob]) -> None:
        from ..store import database_now
        from .printing import print_table
        from .ps_command import HEADINGS, row

        text, now = io.StringIO(), database_now(using="default")
        print_table(text, HEADINGS, [row(job, now=now) for job in jobs])
        states = str([(job.status, job.attempt) for job in jobs])
        if not self._out.isatty():
            if states != self._shown:
                self._out.write("\n" + text.getvalue())
        else:
            self._out.write((f"\x1b[{self._lines}A\x1b[J" if self._lines else "\n") + text.getvalue())
            self._lines = len(jobs) + 1
        self._shown = states
        self._out.flush()


def _watch(jobs: dict[str, ContainerJob], say: _Narrator, *, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        for job in jobs.values():
            job.refresh_from_db()
        say.table(list(jobs.values()))
        if until():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"The demo's jobs did not come to an end within {_LIMIT_SECONDS} s.")
        time.sleep(_REDRAW_SECONDS)


def _show_refusals(job: ContainerJob, say: _Narrator) -> None:
    from django.db import IntegrityError, connection

    from ..statemachine import InvalidTransition

    say("hello has completed. Nothing can make it run again. Not its method:")
    try:
        job.transition_to("running")
    except InvalidTransition as refusal:
        say(f"    job.transition_to('running')  ->  {type(refusal).__name__}: {refusal}")
    say("And not SQL, whoever sends it:")
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE container_manager_containerjob SET status = 'running' WHERE name = 'hello'")
    except IntegrityError as refusal:
        say(f"    UPDATE … SET status = 'running'  ->  {type(refusal).__name__}: {refusal}")


def _show_journal(job: ContainerJob, say: _Narrator) -> None:
    from .printing import clock

    say(f"The journal of {job.name!r}, written by the database itself:")
    for entry in job.transitions.all():
        why = f" ({entry.reason})" if entry.reason else ""
        say.line(f"{clock(entry.at)}  {entry.from_status:>9} -> {entry.to_status:<9}  {entry.actor}{why}")


def _verdict(cast: _Cast, jobs: Mapping[str, ContainerJob], worker_code: int, say: _Narrator) -> int:
    wrong = [
        f"{name}: expected {cast[name][1]}, found {found} {job.last_error}"
        for name, job in jobs.items()
        if (found := (job.status, job.failure_reason, job.attempt)) != cast[name][1]
    ]
    if worker_code:
        wrong.append(f"the worker ended with {worker_code}")
    say("\n".join(["NOT as expected:", *wrong]) if wrong else "Every job ended as it should.")
    return 1 if wrong else 0
