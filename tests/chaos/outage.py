"""Take the database away while jobs end: ``python -m tests.chaos.outage DATABASE [--jobs N] [--seconds S] [--lease S]``.

All jobs run at once. The database is killed (for SQLite: another process keeps the lock), all jobs end, and after S
seconds the database is back. Exit code 1 unless each job is completed by its first attempt, with all of its output.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .__main__ import say
from .databases import DATABASES, installation

_PATIENCE_SECONDS = 120
_LINES = 20
_WORKERS = 2


class Outage:
    """Jobs that all wait for a word to exit, their workers, and a database that is away when the word comes."""

    def __init__(self, folder: Path, database: Any, *, jobs: int, seconds: float) -> None:
        self.folder, self.database, self.jobs, self.seconds = folder, database, jobs, seconds
        self.started, self.ended, self.go = (folder / name for name in ("started", "ended", "go"))
        self.log = folder / "workers.log"
        os.mkfifo(self.go)

    def run(self) -> list[str]:
        """Run the test; return a description of every problem."""
        self._enqueue()
        workers = [self._start_worker() for _ in range(_WORKERS)]
        try:
            _eventually(lambda: _lines(self.started) == self.jobs, "not all jobs started")
            _eventually(lambda: self._stored() == self.jobs, "not all jobs' first words were stored")
            self._await_renewals()
            with self.database_away():
                away = time.monotonic()
                with self.go.open("w") as word:
                    # A line for each: a shell reads one line only.
                    word.write("\n" * self.jobs)
                    word.flush()
                    _eventually(lambda: _lines(self.ended) == self.jobs, "not all jobs ended")
                took = time.monotonic() - away
                time.sleep(max(0.0, self.seconds - took))  # the length of the outage is the experiment
            _eventually(lambda: _with_database(self._unfinished) == 0, "not all ends were stored")
        finally:
            for worker in workers:
                worker.terminate()
            codes = [worker.wait(_PATIENCE_SECONDS) for worker in workers]
        say(f"{self.jobs} jobs ended within {took:.1f} s of the {self.seconds:g} s in which the database was away")
        return [*self._problems(), *(f"a worker ended with {code}" for code in codes if code)]

    def _enqueue(self) -> None:
        from container_manager import queue
        from container_manager.models import ContainerJob

        script = self.folder / "job.sh"
        script.write_text(
            f"echo first $CONTAINER_MANAGER_JOB; echo error >&2; echo >> {self.started}\nread word < {self.go}\n"
            # Shell builtins only, which take no time: jobs must end before the lease expires during the outage.
            f"for n in {' '.join(map(str, range(1, _LINES + 1)))}; do echo $n; done\necho >> {self.ended}\n"
        )
        queue.enqueue_many(ContainerJob(command=f"sh {script}", max_retries=0) for _ in range(self.jobs))

    def _start_worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "django", "container", "worker", "--slots", str(-(-self.jobs // _WORKERS))]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    @contextmanager
    def database_away(self) -> Iterator[None]:
        if self.database.can_crash:
            self.database.kill()
            try:
                yield
            finally:
                self.database.start()
        else:
            with sqlite3.connect(
                self.database.settings["NAME"], isolation_level=None, timeout=_PATIENCE_SECONDS
            ) as lock:
                lock.execute("BEGIN EXCLUSIVE")
                yield
                lock.execute("ROLLBACK")
            lock.close()

    def _await_renewals(self) -> None:
        """Wait until each worker has just renewed its lease: the jobs have all of it to end in."""
        from container_manager.models import Worker

        before = dict(Worker.objects.values_list("pk", "lease_expires_at"))

        def have_renewed() -> bool:
            now = dict(Worker.objects.values_list("pk", "lease_expires_at"))
            return all(pk in now and now[pk] > lease for pk, lease in before.items())

        _eventually(have_renewed, "not all leases were renewed")

    def _stored(self) -> int:
        from container_manager.models import JobLog

        return JobLog.objects.filter(stream="stdout").values("attempt").distinct().count()

    def _unfinished(self) -> int:
        from container_manager.models import ContainerJob, JobAttempt

        open_attempts = JobAttempt.objects.filter(finished_at=None).count()
        return ContainerJob.objects.filter(status__in=["queued", "running", "retrying"]).count() + open_attempts

    def _problems(self) -> Iterator[str]:
        from container_manager.models import ContainerJob, JobLog
        from container_manager.store.consistency import examine

        yield from examine().problems
        for job in ContainerJob.objects.all():
            if (job.status, job.attempt, job.exit_code) != ("completed", 1, 0):
                yield f"{job.pk} is {job.status}, attempt {job.attempt}, exit code {job.exit_code}: {job.last_error}"
            rows = JobLog.objects.filter(attempt__job=job).order_by("sequence").values_list("stream", "data")
            for stream, expected in (
                ("stdout", f"first {job.pk}\n" + "".join(f"{n}\n" for n in range(1, _LINES + 1))),
                ("stderr", "error\n"),
                ("system", ""),
            ):
                if (found := b"".join(bytes(data) for name, data in rows if name == stream)) != expected.encode():
                    yield f"{job.pk} has {stream} {found!r}"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _eventually(condition: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.1)  # other processes have no event for this one


def _with_database(look: Callable[[], int]) -> int:
    """Query a database that may not be available yet; -1 for no answer."""
    from django.db import OperationalError, connection

    try:
        return look()
    except OperationalError:
        connection.close()
        return -1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outage", description=__doc__)
    parser.add_argument("database", choices=sorted(DATABASES))
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lease", type=float, default=30.0, help="The workers' LEASE_SECONDS.")
    arguments = parser.parse_args()
    with installation(arguments.database, lease_seconds=arguments.lease) as (folder, database):
        outage = Outage(folder, database, jobs=arguments.jobs, seconds=arguments.seconds)
        try:
            problems = outage.run()
        except TimeoutError as error:
            problems = [str(error)]
        for problem in problems[:20]:
            say(problem)
        if problems:
            say(outage.log.read_text()[-6000:])
    say(f"{arguments.database}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
