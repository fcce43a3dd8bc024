"""Who takes part: each with its own tables or broker, and a worker as its documentation starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import psycopg

_DJANGO = (sys.executable, "-m", "django")


class Contender:
    """A backend of Django's task framework, here one of database tables.

    ``kills``: how a running task of it is ended; "" if nothing ends it.
    """

    name: str
    kills = ""
    module: str
    apps: Sequence[str] = ()
    backend = ""
    worker: Sequence[str]
    unfinished_sql = ""

    @property
    def obstacle(self) -> str:
        """Why it cannot take part here; "" if it can."""
        return "" if find_spec(self.module) else f"{self.module} is not installed"

    def decorator(self) -> Callable[..., Any]:
        if find_spec("django.tasks"):
            from django.tasks import task
        else:
            from django_tasks import task
        return task

    def connect(self) -> AbstractContextManager[Any]:
        """Return what each process that enqueues is in."""
        return nullcontext()

    def prepare(self) -> None:
        """Create the tables, once."""
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

    def enqueue(self, task: Any, *args: Any) -> None:
        task.enqueue(*args)

    def enqueue_many(self, task: Any, count: int) -> None:
        """Enqueue calls without arguments, in one transaction where there is one."""
        from django.db import transaction

        with transaction.atomic():
            for _ in range(count):
                task.enqueue()

    def unfinished(self, connection: psycopg.Connection) -> int:
        return connection.execute(self.unfinished_sql).fetchone()[0]


class Ours(Contender):
    name = "ours"
    kills = "cancel, timeout, memory limit"
    module = "container_manager"
    apps = ("container_manager",)
    backend = "container_manager.tasks.ContainerTaskBackend"
    worker = (*_DJANGO, "container", "worker", "--log-level", "WARNING")
    unfinished_sql = (
        "SELECT count(*) FROM container_manager_containerjob WHERE status IN ('queued', 'running', 'retrying')"
    )

    def enqueue_many(self, task: Any, count: int) -> None:
        task.enqueue_many([((), {})] * count)


class DjangoTasksDb(Contender):
    name = "django-tasks-db"
    module = "django_tasks_db"
    apps = ("django_tasks_db",)
    backend = "django_tasks_db.DatabaseBackend"
    # Without a pause before its first look.
    worker = (*_DJANGO, "db_worker", "--no-startup-delay", "--interval", "0.1")
    unfinished_sql = "SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status IN ('READY', 'RUNNING')"


class DjQueue(Contender):
    name = "dj-queue"
    module = "dj_queue"
    apps = ("django.contrib.contenttypes", "django.contrib.auth", "dj_queue")
    backend = "dj_queue.backend.DjQueueBackend"
    worker = (*_DJANGO, "dj_queue")
    unfinished_sql = "SELECT count(*) FROM dj_queue_jobs WHERE finished_at IS NULL"

    def enqueue_many(self, task: Any, count: int) -> None:
        task.get_backend().enqueue_all([(task, [], {})] * count)


class DjangoOx(Contender):
    name = "django-ox"
    module = "django_ox"
    apps = ("django_ox",)
    backend = "django_ox.backend.OxBackend"
    worker = (*_DJANGO, "ox_worker")
    unfinished_sql = "SELECT count(*) FROM django_ox_oxtask WHERE status IN ('READY', 'RUNNING')"

    def enqueue_many(self, task: Any, count: int) -> None:
        task.get_backend().enqueue_many(task, [((), {})] * count)


class Procrastinate(Contender):
    name = "procrastinate"
    module = "procrastinate"
    worker = (sys.executable, "-m", "procrastinate", "--app=benchmarks.tasks.procrastinate_app.app", "worker")
    unfinished_sql = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"

    def decorator(self) -> Callable[..., Any]:
        from .procrastinate_app import app

        return app.task

    def prepare(self) -> None:
        from .procrastinate_app import app

        app.schema_manager.apply_schema()

    def connect(self) -> AbstractContextManager[Any]:
        from .procrastinate_app import app

        return app.open()

    def enqueue(self, task: Any, *args: Any) -> None:
        task.defer(**({"path": args[0]} if args else {}))

    def enqueue_many(self, task: Any, count: int) -> None:
        task.batch_defer(*([{}] * count))


class Celery(Contender):
    """Its processes run one task after another."""

    name = "Celery, Redis"
    kills = "revoke(terminate=True), time_limit"
    module = "celery"
    worker = (
        *(sys.executable, "-m", "celery", "-A", "benchmarks.tasks.celery_app", "worker"),
        *("--loglevel", "CRITICAL", "--hostname", "w{number}@bench"),
    )

    @property
    def obstacle(self) -> str:
        return super().obstacle or ("" if os.environ.get("BENCH_REDIS") else "there is no redis-server")

    def decorator(self) -> Callable[..., Any]:
        from .celery_app import app

        return app.task

    def prepare(self) -> None:
        """Redis has no tables."""

    def enqueue(self, task: Any, *args: Any) -> None:
        task.delay(*args)

    def enqueue_many(self, task: Any, count: int) -> None:
        for _ in range(count):
            task.delay()

    def unfinished(self, connection: psycopg.Connection) -> int:
        """Count what is not done, but for the last that every process has in hand."""
        from .celery_app import app

        client = app.backend.client
        return int(client.llen("celery")) + int(client.hlen("unacked"))


class CeleryProcessPerTask(Celery):
    """As ours: each task has a process of its own, so that nothing of it is left to the next."""

    name = "Celery, Redis, a process per task"
    worker = (*Celery.worker, "--max-tasks-per-child", "1")


_ALL = (Ours(), DjangoTasksDb(), DjQueue(), DjangoOx(), Procrastinate(), Celery(), CeleryProcessPerTask())
CONTENDERS = {each.name: each for each in _ALL}


def contender(name: str) -> Contender:
    return CONTENDERS[name]
