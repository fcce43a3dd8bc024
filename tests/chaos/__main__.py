"""Run the chaos test on one database and print the result; exit code 1 if there is a problem."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..servers import end_when_told
from .databases import DATABASES, installation
from .engines import ENGINES, obstacle

LEASE_SECONDS = 3.0
_FREEZE_SECONDS = (LEASE_SECONDS * 0.3, LEASE_SECONDS * 1.8)
# Some runs let local processes outlast the lease, others do not.
_OUTAGE_SECONDS = (LEASE_SECONDS, LEASE_SECONDS * 4)
_LOCK_SECONDS = (LEASE_SECONDS * 0.5, LEASE_SECONDS * 1.5)
_SLOTS = 6
_STOP_SECONDS = 60
# The workers look for orphans every 30 s.
_SWEEP_SECONDS = 90
_RESTART_SHARE = 0.06
_CANCEL_SHARE = 0.15
_TABLE_LOCK_SHARE = 0.04
_ROW_LOCK_SHARE = 0.06
# How long an application holds jobs' rows locked: beyond a poll, and beyond a lease. All of SQLite is locked then.
_ROW_LOCK_SECONDS = {
    True: (LEASE_SECONDS * 0.1, LEASE_SECONDS * 1.5),
    False: (LEASE_SECONDS * 0.1, LEASE_SECONDS * 0.3),
}
_LOCKED_ROWS = 3
_GUESSING = "guessing"
# Attempts are lost by faults here, not by their job: it must never run out of retries.
_RETRIES = 1000


class Chaos:
    """Workers, a database and an engine, and the faults that strike them."""

    def __init__(self, folder: Path, database: Any, *, executor: str, jobs: int, seed: int) -> None:
        self.folder, self.database, self.jobs = folder, database, jobs
        self.random = random.Random(seed)  # noqa: S311  # faults, not secrets
        self.faults: Counter[str] = Counter()
        self.strikes: list[str] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.frozen: dict[subprocess.Popen[bytes], threading.Timer] = {}
        self.holders: list[threading.Thread] = []
        self.effects = folder / "effects"
        self.effects.mkdir()
        self.outage_seconds = self.random.choice(_OUTAGE_SECONDS)
        self.locker: threading.Thread | None = None
        self.engine = ENGINES[executor](self.effects, self.random)
        self.log = (folder / "workers.log").open("ab")

    def enqueue(self) -> None:
        from container_manager import queue
        from container_manager.models import ContainerJob

        # A container's host name is its id. If an attempt runs twice, the log tells where and when.
        line = "$CONTAINER_MANAGER_ATTEMPT in ${HOSTNAME:-} at $up"
        write = f'read up rest < /proc/uptime; echo "{line}" >> {self.effects}/$CONTAINER_MANAGER_JOB'
        # A job that claims on every descriptor it can name that it ended well; it does not.
        claim = r'echo "{\"code\": 0, \"lost\": false}"'
        guess = f"for n in 3 4 5 6 7 8 9; do {claim} >&$n; echo oops >&$n; done 2>/dev/null; sleep 0.1; exit 7"
        kinds = [
            ("quick", "true", _RETRIES, None),
            ("slow", "sleep 0.2", _RETRIES, None),
            ("tree", "sleep 0.1 & setsid sleep 0.3 & wait", _RETRIES, None),
            ("failing", "exit 3", 2, None),
            ("endless", "while :; do sleep 0.05; done", 0, 1),
            (_GUESSING, guess, 2, None),
        ]
        weights = [60, 24, 8, 4, 2, 2]
        made = []
        for number in range(self.jobs):
            name, body, retries, timeout = self.random.choices(kinds, weights)[0]
            made.append(
                ContainerJob(
                    name=f"{name}-{number}",
                    command=f"sh -c '{write}; {body}'",
                    max_retries=retries,
                    timeout_seconds=timeout,
                    grace_seconds=1,
                    **self.engine.job,
                    priority=self.random.randrange(101),
                )
            )
        queue.enqueue_many(made)

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "django", "container", "worker", "--slots", str(_SLOTS)]
        # An illegal stage of a run is only a warning in production.
        strict = {"PYTHONWARNINGS": "error::RuntimeWarning"}
        environment = {**os.environ, **strict, "CHAOS_EXECUTORS": json.dumps(self.engine.executors)}
        environment["CHAOS_OUTAGE_SECONDS"] = str(self.outage_seconds)
        worker = subprocess.Popen(
            [*command, "--log-level", "WARNING"], stdout=self.log, stderr=self.log, env=environment
        )
        self.workers.append(worker)

    def strike(self) -> None:
        """Cause one fault."""
        if self.random.random() < self.engine.fault_share:
            if fault := self.engine.strike():
                self.note(fault)
            return
        roll = self.random.random()
        running = [worker for worker in self.workers if worker not in self.frozen]
        if self.database.can_crash and roll < _RESTART_SHARE:
            self.note("database killed")
            self.database.crash()
        elif roll < _RESTART_SHARE + _CANCEL_SHARE:
            self.cancel()
        elif roll < _RESTART_SHARE + _CANCEL_SHARE + _TABLE_LOCK_SHARE:
            self.lock()
        elif roll < _RESTART_SHARE + _CANCEL_SHARE + _TABLE_LOCK_SHARE + _ROW_LOCK_SHARE:
            self.note("rows locked")
            seconds = self.random.uniform(*_ROW_LOCK_SECONDS[self.database.can_crash])
            self.holders.append(threading.Thread(target=self.hold_rows, args=(seconds,)))
            self.holders[-1].start()
        elif roll < 0.65 and running:
            worker = self.random.choice(running)
            self.note("worker killed")
            worker.kill()
            worker.wait()
            self.workers.remove(worker)
            self.start_worker()
        elif running:
            worker = self.random.choice(running)
            worker.send_signal(signal.SIGSTOP)
            # By a thread: a worker frozen in a transaction blocks all of SQLite, and so may block this process.
            timer = threading.Timer(self.random.uniform(*_FREEZE_SECONDS), self.wake, [worker])
            self.frozen[worker] = timer
            timer.start()
            self.note("worker frozen")

    def note(self, fault: str) -> None:
        self.faults[fault] += 1
        self.strikes.append(f"{fault} at {time.clock_gettime(time.CLOCK_BOOTTIME):.2f};")

    def cancel(self) -> None:
        from container_manager.models import ContainerJob
        from container_manager.statemachine import TransitionError

        job = ContainerJob.objects.filter(status="running").order_by("?").first()
        if job is None:
            return
        try:
            job.mark_as_cancelled(actor="chaos")
            self.note("job cancelled")
        except TransitionError:
            self.note("cancel too late")

    def hold_rows(self, seconds: float) -> None:
        """Hold rows of some queued and running jobs, as a slow transaction of an application does."""
        from django.db import Error, connection, transaction

        from container_manager.models import ContainerJob

        try:
            with transaction.atomic():
                for status in ("queued", "running"):
                    jobs = ContainerJob.objects.filter(status=status).order_by("-priority", "queued_at")
                    list(jobs.select_for_update(skip_locked=self.database.can_crash)[:_LOCKED_ROWS])
                time.sleep(seconds)  # how long they are held is the experiment
        except Error:
            self.note("locks ended by the database")
        finally:
            connection.close()

    def lock(self) -> None:
        """Lock the jobs' table for others, for longer than a lease perhaps; in a thread, since others go on."""
        if self.locker is None or not self.locker.is_alive():
            self.note("table locked")
            self.locker = threading.Thread(target=self.hold_lock, args=[self.random.uniform(*_LOCK_SECONDS)])
            self.locker.start()

    def hold_lock(self, seconds: float) -> None:
        from django.db import DatabaseError, connection

        take, give_back = {
            "sqlite": ("BEGIN EXCLUSIVE", "ROLLBACK"),
            "postgresql": ("BEGIN; LOCK TABLE container_manager_containerjob", "ROLLBACK"),
            "mysql": ("LOCK TABLES container_manager_containerjob WRITE", "UNLOCK TABLES"),
        }[connection.vendor]
        try:
            with connection.cursor() as cursor:
                cursor.execute(take)
                time.sleep(seconds)  # how long it is locked is part of the experiment
                cursor.execute(give_back)
        except DatabaseError:
            # The database was killed meanwhile, or too many others wanted the lock.
            return
        finally:
            connection.close()

    def wake(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGCONT)
        self.frozen.pop(worker, None)

    def wake_everyone(self) -> None:
        for worker, timer in list(self.frozen.items()):
            timer.cancel()
            self.wake(worker)

    def unfinished(self) -> int:
        from container_manager.models import ContainerJob, JobAttempt

        waiting = ContainerJob.objects.filter(status__in=["queued", "running", "retrying"]).count()
        return waiting + JobAttempt.objects.filter(finished_at=None).count()

    def run(self, limit_seconds: float) -> None:
        """Cause faults until most jobs are done, then let the rest end in peace."""
        self.engine.start()
        for _ in range(self.database.workers):
            self.start_worker()
        deadline = time.monotonic() + limit_seconds
        left = self.jobs
        while left and time.monotonic() < deadline:
            time.sleep(
                self.random.uniform(*self.engine.between_faults)
            )  # the time between faults is part of the experiment
            if left > self.jobs // 20:
                self.strike()
            else:
                self.wake_everyone()
            left = self.with_database(self.unfinished)
        self.wake_everyone()
        for holder in (*self.holders, *([self.locker] if self.locker is not None else [])):
            holder.join()
        self.engine.recover()
        deadline = min(deadline, time.monotonic() + _SWEEP_SECONDS)
        while self.engine.left() and time.monotonic() < deadline:
            time.sleep(0.5)  # the workers' sweep has no event for this process

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
        while {worker.pid for worker in self.workers} - set(Worker.objects.values_list("pid", flat=True)):
            if time.monotonic() > deadline:
                raise TimeoutError("A worker did not register.")
            time.sleep(0.05)  # another process has no event for this one

    def stop(self) -> list[int]:
        self.with_database(self.await_registration)
        for worker in self.workers:
            worker.terminate()
        return [self._wait(worker) for worker in self.workers]

    def _wait(self, worker: subprocess.Popen[bytes]) -> int:
        try:
            return worker.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            return worker.wait()

    def verify(self, exit_codes: list[int]) -> list[str]:
        """Return a description of every problem."""
        from container_manager.models import JobAttempt
        from container_manager.store.consistency import examine

        diagnosis = examine()
        problems = [*diagnosis.problems, *self.engine.problems]
        for status in ("pending", "queued", "running", "retrying"):
            if count := diagnosis.jobs[status]:
                problems.append(f"{count} jobs are still {status}")
        if diagnosis.jobs.total() != self.jobs:
            problems.append(f"{self.jobs} jobs were made, {diagnosis.jobs.total()} are there")
        known = {(str(job), number) for job, number in JobAttempt.objects.values_list("job", "number")}
        lines = [(path.name, line) for path in self.effects.iterdir() for line in path.read_text().splitlines()]
        runs = Counter((job, int(line.split()[0])) for job, line in lines)
        problems += [
            f"{job} ran as attempt {number}, which nobody knows" for job, number in runs if (job, number) not in known
        ]
        twice = {run for run, count in runs.items() if count > 1}
        problems += [
            f"{job}: ran more than once: {line}" for job, line in lines if (job, int(line.split()[0])) in twice
        ]
        completed = {str(job) for (job,) in _completed()}
        problems += [
            f"{job} is completed and never ran" for job in completed - {path.name for path in self.effects.iterdir()}
        ]
        problems += [
            f"{job} is completed, although it ends with 7" for job in _completed().filter(name__startswith=_GUESSING)
        ]
        problems += [f"process {pid} is left" for pid in _processes_with(str(self.effects))]
        problems += [f"{name} is left" for name in self.engine.left()]
        problems += [f"a worker ended with {code}" for code in exit_codes if code]
        say(
            f"{self.jobs} jobs: {dict(sorted(diagnosis.jobs.items()))}; {diagnosis.attempts} attempts, "
            f"{diagnosis.transitions} transitions, {runs.total()} runs; OUTAGE_SECONDS {self.outage_seconds:g}; "
            f"faults: {dict(sorted(self.faults.items()))}"
        )
        return problems


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _completed() -> Any:
    from container_manager.models import ContainerJob

    return ContainerJob.objects.filter(status="completed").values_list("pk")


def _processes_with(text: str) -> list[int]:
    """Return the ids of processes whose arguments contain a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if text.encode() in arguments and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", choices=sorted(DATABASES))
    parser.add_argument("--executor", choices=sorted(ENGINES), default="process")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="The same faults again, as far as time allows.")
    parser.add_argument("--limit", type=float, default=3600.0, help="Seconds until it is given up.")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    if reason := obstacle(arguments.executor):
        say(f"Skipped: {reason}.")
        return 1 if os.environ.get("CM_TEST_REQUIRE") else 0
    say(f"{arguments.database}, {arguments.executor}, seed {seed}")
    end_when_told()
    with installation(arguments.database, lease_seconds=LEASE_SECONDS) as (folder, database):
        chaos = Chaos(folder, database, executor=arguments.executor, jobs=arguments.jobs, seed=seed)
        try:
            chaos.enqueue()
            chaos.run(arguments.limit)
            problems = chaos.verify(chaos.stop())
        finally:
            chaos.wake_everyone()
            for worker in chaos.workers:
                worker.kill()
            chaos.engine.stop()
        for problem in problems[:50]:
            say(problem)
        if problems:
            say(" ".join(chaos.strikes))
            say((folder / "workers.log").read_text()[-6000:])
    say(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
