"""Run the chaos test on one database and print the result; exit code 1 if there is a problem.

Without ``--only`` all disturbances that the database and the executor have are chosen. Jobs are added until each of them
has happened, up to ten times as many; a run in which one never happened fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from ..servers import end_when_told
from .databases import DATABASES, installation
from .engines import ENGINES, obstacle
from .jobs import LONG, make_jobs
from .schedule import Schedule
from .verdict import problems_of
from .worker_disturbances import CLOCK, SLOW, TAKEN
from .worker_process import HOSTS, WorkerProcess

LEASE_SECONDS = 3.0
_FREEZE_SECONDS = (LEASE_SECONDS * 0.3, LEASE_SECONDS * 1.8)
# Some runs let local processes outlast the lease, others do not.
_OUTAGE_SECONDS = (LEASE_SECONDS, LEASE_SECONDS * 4)
_LOCK_SECONDS = (LEASE_SECONDS * 0.5, LEASE_SECONDS * 1.5)
_STOP_SECONDS = 60
# How many times the jobs asked for there are at most, while a disturbance has not happened.
_MOST_JOBS = 10
# The workers look for orphans every 30 s.
_SWEEP_SECONDS = 90
# How long an application holds jobs' rows locked: beyond a poll, and beyond a lease. All of SQLite is locked then.
_ROW_LOCK_SECONDS = {
    True: (LEASE_SECONDS * 0.1, LEASE_SECONDS * 1.5),
    False: (LEASE_SECONDS * 0.1, LEASE_SECONDS * 0.3),
}
_LOCKED_ROWS = 3
_SLOW_SECONDS = (LEASE_SECONDS * 0.5, LEASE_SECONDS * 1.5)
_CLOCK_SECONDS = 3600.0
# A worker gives a connection up that is silent for half a lease.
_SILENT_SECONDS = {
    "connection silent for less than a lease": (LEASE_SECONDS * 0.1, LEASE_SECONDS * 0.9),
    "connection silent for longer than a lease": (LEASE_SECONDS * 1.1, LEASE_SECONDS * 2),
}
# For how long beyond OUTAGE_SECONDS a worker is parted from the database.
_PARTED_SECONDS = (LEASE_SECONDS * 0.2, LEASE_SECONDS * 0.7)


class Chaos:
    """Workers, a database and an engine, and the disturbances that they meet."""

    def __init__(
        self, folder: Path, database: Any, *, executor: str, jobs: int, seed: int, only: list[str] | None = None
    ) -> None:
        self.folder, self.database, self.jobs, self.made = folder, database, jobs, 0
        self.random = random.Random(seed)  # noqa: S311  # faults, not secrets
        # Those that were killed may have connections that are silent.
        self.workers: list[WorkerProcess] = []
        self.killed: list[WorkerProcess] = []
        self.holders: list[threading.Thread] = []
        # What ends the disturbances that last.
        self.endings: list[threading.Timer] = []
        self.effects, self.control = folder / "effects", folder / "control"
        self.effects.mkdir()
        self.control.mkdir()
        self.outage_seconds = self.random.choice(_OUTAGE_SECONDS)
        self.locker: threading.Thread | None = None
        self.engine = ENGINES[executor](self.effects, self.random)
        self.log = (folder / "workers.log").open("ab")
        self.acts = {name: act for name, (_, act) in self.disturbances().items()}
        weights = {name: weight for name, (weight, _) in self.disturbances().items()}
        if unknown := sorted(set(only or ()) - weights.keys()):
            raise SystemExit(f"There is no {unknown[0]!r} here. There are: {', '.join(sorted(weights))}.")
        self.schedule = Schedule({name: weights[name] for name in only or weights}, self.random)

    def disturbances(self) -> dict[str, tuple[float, Callable[[str], None]]]:
        """Return all that there are here by their names, with their weights."""
        found: dict[str, tuple[float, Callable[[str], None]]] = {
            "worker killed": (30.0, self.kill),
            "worker frozen": (28.0, self.freeze),
            "job cancelled": (14.0, self.cancel),
            "table locked": (4.0, self.lock),
            "rows locked": (6.0, self.lock_rows),
            SLOW: (5.0, self.ask),
            CLOCK: (5.0, self.ask),
        }
        if self.database.can_crash:
            found |= {
                "database killed": (6.0, self.crash_database),
                **dict.fromkeys(_SILENT_SECONDS, (4.0, self.silence)),
                "worker parted from the database": (3.0, self.part),
            }
        return found | {name: (weight, self.strike_engine) for name, weight in self.engine.disturbances.items()}

    def start_worker(self, number: int) -> None:
        folder = self.folder / f"worker-{len(self.workers) + len(self.killed)}"
        folder.mkdir()
        environment = {
            # An illegal stage of a run is only a warning in production.
            "PYTHONWARNINGS": "error::RuntimeWarning",
            "CHAOS_OUTAGE_SECONDS": str(self.outage_seconds),
            "CHAOS_CONTROL": str(self.control),
        }
        host = HOSTS[number % len(HOSTS)]
        environment["CHAOS_EXECUTORS"] = json.dumps(self.engine.executors(host))
        self.workers.append(WorkerProcess(number, host, folder, self.database, environment=environment, log=self.log))

    # -- disturbances --------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Cause one disturbance."""
        name = self.schedule.draw()
        self.acts[name](name)

    def choose(self, pids: Collection[int] | None = None) -> WorkerProcess | None:
        """Return a worker, perhaps of these, that is neither frozen nor parted: it goes on with its jobs meanwhile."""
        running = [worker for worker in self.workers if not (worker.is_frozen or worker.is_parted)]
        if pids is not None:
            running = [worker for worker in running if worker.process.pid in pids]
        return self.random.choice(running) if running else None

    def kill(self, name: str) -> None:
        if (worker := self.choose()) is not None:
            self.schedule.note(name)
            worker.kill()
            self.workers.remove(worker)
            self.killed.append(worker)
            self.start_worker(worker.number)

    def freeze(self, name: str) -> None:
        if (worker := self.choose()) is not None:
            worker.freeze(self.random.uniform(*_FREEZE_SECONDS))
            self.schedule.note(name)

    def crash_database(self, name: str) -> None:
        self.schedule.note(name)
        self.database.crash()

    def strike_engine(self, name: str) -> None:
        self.engine.strike(name, lambda: self.schedule.note(name))

    def ask(self, name: str) -> None:
        """Ask the workers for a disturbance; the first that can takes it."""
        seconds = self.random.uniform(*_SLOW_SECONDS)
        if name == CLOCK:
            seconds = self.random.uniform(-_CLOCK_SECONDS, _CLOCK_SECONDS)
        made = self.control / "made"
        made.write_text(str(seconds))
        made.rename(self.control / name)

    def note_taken(self) -> None:
        """Note what workers were asked for and did."""
        for taken in self.control.glob(f"*{TAKEN}"):
            taken.unlink()
            self.schedule.note(taken.name.split(".")[0])

    def silence(self, name: str) -> None:
        """Let a connection fall silent. What it holds back arrives in the end, though its worker may have given up."""
        worker = self.choose()
        if worker is None or worker.proxy is None or not (there := worker.proxy.connections):
            return
        connection = self.random.choice(there)
        connection.fall_silent()
        self.schedule.begin(name)

        def end() -> None:
            # A silence within a parting goes on.
            if not worker.is_parted:
                connection.speak()
            self.schedule.note(name)

        self.later(self.random.uniform(*_SILENT_SECONDS[name]), end)

    def part(self, name: str) -> None:
        """Part a worker that runs a long job from the database, until others may have taken all that it has."""
        from container_manager.models import JobAttempt, Worker

        held = JobAttempt.objects.filter(finished_at=None, job__name__startswith=LONG)
        pids = set(Worker.objects.filter(pk__in=held.values("worker")).values_list("pid", flat=True))
        worker = self.choose(pids)
        if worker is None or any(each.is_parted for each in self.workers):
            return
        worker.part(cut=self.random.random() < 0.5)
        self.schedule.begin(name)

        def end() -> None:
            worker.reconnect()
            if worker.process.poll() is None:
                self.schedule.note(name)

        self.later(max(LEASE_SECONDS, self.outage_seconds) + self.random.uniform(*_PARTED_SECONDS), end)

    def later(self, seconds: float, end: Callable[[], None]) -> None:
        self.endings.append(threading.Timer(seconds, end))
        self.endings[-1].start()

    def cancel(self, name: str) -> None:
        from container_manager.models import ContainerJob
        from container_manager.statemachine import TransitionError

        job = ContainerJob.objects.filter(status="running").order_by("?").first()
        if job is None:
            return
        try:
            job.mark_as_cancelled(actor="chaos")
            self.schedule.note(name)
        except TransitionError:
            self.schedule.note("cancel too late")

    def lock_rows(self, name: str) -> None:
        seconds = self.random.uniform(*_ROW_LOCK_SECONDS[self.database.can_crash])
        self.holders.append(threading.Thread(target=self.hold_rows, args=(name, seconds)))
        self.holders[-1].start()

    def hold_rows(self, name: str, seconds: float) -> None:
        """Hold rows of some queued and running jobs, as a slow transaction of an application does."""
        from django.db import Error, connection, transaction

        from container_manager.models import ContainerJob

        try:
            with transaction.atomic():
                held = 0
                for status in ("queued", "running"):
                    jobs = ContainerJob.objects.filter(status=status).order_by("-priority", "queued_at")
                    held += len(jobs.select_for_update(skip_locked=self.database.can_crash)[:_LOCKED_ROWS])
                time.sleep(seconds)  # how long they are held is the experiment
            if held:
                self.schedule.note(name)
        except Error:
            self.schedule.note("locks ended by the database")
        finally:
            connection.close()

    def lock(self, name: str) -> None:
        """Lock the jobs' table for others, for longer than a lease perhaps; in a thread, since others go on."""
        if self.locker is None or not self.locker.is_alive():
            seconds = self.random.uniform(*_LOCK_SECONDS)
            self.locker = threading.Thread(target=self.hold_lock, args=[name, seconds])
            self.locker.start()

    def hold_lock(self, name: str, seconds: float) -> None:
        from django.db import DatabaseError, connection

        take, give_back = {
            "sqlite": ("BEGIN EXCLUSIVE", "ROLLBACK"),
            "postgresql": ("BEGIN; LOCK TABLE container_manager_containerjob", "ROLLBACK"),
            "mysql": ("LOCK TABLES container_manager_containerjob WRITE", "UNLOCK TABLES"),
        }[connection.vendor]
        try:
            with connection.cursor() as cursor:
                cursor.execute(take)
                self.schedule.note(name)
                time.sleep(seconds)  # how long it is locked is part of the experiment
                cursor.execute(give_back)
        except DatabaseError:
            # The database was killed meanwhile, or too many others wanted the lock.
            return
        finally:
            connection.close()

    def calm(self) -> None:
        """End what lasts."""
        for ending in self.endings:
            ending.cancel()
        for worker in (*self.workers, *self.killed):
            worker.wake()
            worker.reconnect()

    # -- the run -------------------------------------------------------------------------------------------------

    def enqueue(self, count: int) -> None:
        from container_manager import queue

        queue.enqueue_many(make_jobs(count, self.effects, self.engine.job, self.random))
        self.made += count

    def unfinished(self) -> int:
        from container_manager.models import ContainerJob, JobAttempt

        waiting = ContainerJob.objects.filter(status__in=["queued", "running", "retrying"]).count()
        return waiting + JobAttempt.objects.filter(finished_at=None).count()

    def run(self, limit_seconds: float) -> None:
        """Cause disturbances until most jobs are done, then let the rest end in peace."""
        self.enqueue(self.jobs)
        self.engine.start()
        for number in range(max(self.database.workers, self.engine.workers)):
            self.start_worker(number)
        deadline = time.monotonic() + limit_seconds
        left = self.made
        # All may end during one disturbance, before the others have happened.
        while (left or self.is_too_short) and time.monotonic() < deadline:
            time.sleep(
                self.random.uniform(*self.engine.between_faults)
            )  # the time between faults is part of the experiment
            self.note_taken()
            if left > self.jobs // 20:
                self.strike()
            elif self.is_too_short:
                self.with_database(partial(self.enqueue, self.jobs // 5 + 1))
            else:
                self.calm()
            left = self.with_database(self.unfinished)
        self.calm()
        for holder in (*self.holders, *([self.locker] if self.locker is not None else [])):
            holder.join()
        self.engine.recover()
        deadline = min(deadline, time.monotonic() + _SWEEP_SECONDS)
        while self.engine.left() and time.monotonic() < deadline:
            time.sleep(0.5)  # the workers' sweep has no event for this process

    @property
    def is_too_short(self) -> bool:
        """Whether more jobs are needed for all disturbances to happen."""
        return bool(self.schedule.missing) and self.made < _MOST_JOBS * self.jobs

    def with_database(self, look: Any) -> Any:
        """Run a query; try again while the database restarts."""
        from django.db import OperationalError, connection

        for _ in range(50):
            try:
                return look()
            except OperationalError:
                connection.close()
                time.sleep(0.2)  # the database is being restarted
        return look()

    def await_registration(self) -> None:
        """Wait until each worker is registered: before that its signal handlers may not be set."""
        from container_manager.models import Worker

        deadline = time.monotonic() + _STOP_SECONDS
        pids = {worker.process.pid for worker in self.workers}
        while pids - set(Worker.objects.values_list("pid", flat=True)):
            if time.monotonic() > deadline:
                raise TimeoutError("A worker did not register.")
            time.sleep(0.05)  # another process has no event for this one

    def stop(self) -> list[int]:
        """End the workers; return their exit codes."""
        self.with_database(self.await_registration)
        for worker in self.workers:
            worker.process.terminate()
        return [self._wait(worker.process) for worker in self.workers]

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def verify(self, exit_codes: list[int]) -> list[str]:
        """Return a description of every problem."""
        self.note_taken()
        found, summary = problems_of(self.made, self.effects, self.engine)
        say(f"{summary}; OUTAGE_SECONDS {self.outage_seconds:g}")
        say("\n".join(f"{count:6} {name}" for name, count in sorted(self.schedule.happened.items())))
        found += [f"{name}: it never happened" for name in self.schedule.missing]
        found += [f"a worker ended with {code}" for code in exit_codes if code]
        return found

    def close(self) -> None:
        self.calm()
        for worker in self.workers:
            worker.kill()
        self.engine.stop()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", choices=sorted(DATABASES))
    parser.add_argument("--executor", choices=sorted(ENGINES), default="process")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="The same faults again, as far as time allows.")
    parser.add_argument("--limit", type=float, default=3600.0, help="Seconds until it is given up.")
    parser.add_argument("--only", nargs="+", metavar="DISTURBANCE", help="Choose these disturbances, not all.")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    if reason := obstacle(arguments.executor):
        say(f"Skipped: {reason}.")
        return 1 if os.environ.get("CM_TEST_REQUIRE") else 0
    say(f"{arguments.database}, {arguments.executor}, seed {seed}")
    end_when_told()
    with installation(arguments.database, lease_seconds=LEASE_SECONDS) as (folder, database):
        chaos = Chaos(
            folder, database, executor=arguments.executor, jobs=arguments.jobs, seed=seed, only=arguments.only
        )
        try:
            chaos.run(arguments.limit)
            problems = chaos.verify(chaos.stop())
        finally:
            chaos.close()
        for problem in problems[:50]:
            say(problem)
        if problems:
            say(" ".join(chaos.schedule.history))
            say((folder / "workers.log").read_text()[-6000:])
    say(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
