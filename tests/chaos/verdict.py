"""What the chaos test demands of the rows, the jobs' own files and the engine, once all workers have ended."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .jobs import GUESSING, output_of

# What a worker says that closes an attempt whose engine no worker has reached for UNREACHABLE_SECONDS.
_UNREACHED = "No worker reached its engine"


def problems_of(count: int, effects: Path, engine: Any) -> tuple[list[str], str]:
    """Return a description of every problem, and one of the run."""
    from container_manager.store.consistency import examine

    diagnosis = examine()
    lines = {path.name: path.read_text().splitlines() for path in effects.iterdir()}
    problems = [*diagnosis.problems, *engine.problems]
    for status in ("pending", "queued", "running", "retrying"):
        if waiting := diagnosis.jobs[status]:
            problems.append(f"{waiting} jobs are still {status}")
    if diagnosis.jobs.total() != count:
        problems.append(f"{count} jobs were made, {diagnosis.jobs.total()} are there")
    problems += [*_wrong_runs(lines), *_wrong_ends(lines), *_wrong_outputs(), *_wrong_engines(engine.hosts_by_engine())]
    problems += [f"process {pid} is left" for pid in _processes_with(str(effects))]
    problems += [f"{name} is left" for name in engine.left()]
    runs = sum(" starts " in line for each in lines.values() for line in each)
    return problems, (
        f"{count} jobs: {dict(sorted(diagnosis.jobs.items()))}; {diagnosis.attempts} attempts, "
        f"{diagnosis.transitions} transitions, {runs} runs"
    )


def _wrong_runs(lines: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield attempts that ran unknown, more than once, or beside a later one."""
    from container_manager.models import JobAttempt

    known = {(str(job), number) for job, number in JobAttempt.objects.values_list("job", "number")}
    for job, written in lines.items():
        numbers = [int(line.split()[0]) for line in written]
        starts = Counter(number for number, line in zip(numbers, written, strict=True) if " starts " in line)
        for number, count in starts.items():
            if (job, number) not in known:
                yield f"{job} ran as attempt {number}, which nobody knows"
            if count > 1:
                yield f"{job}: attempt {number} ran more than once: {written}"
        if any(later < earlier for earlier, later in pairwise(numbers)):
            yield f"{job}: an attempt went on beside a later one: {written}"


def _wrong_ends(lines: Mapping[str, list[str]]) -> Iterator[str]:
    from container_manager.models import ContainerJob

    completed = ContainerJob.objects.filter(status="completed")
    for job, name in completed.values_list("pk", "name"):
        if str(job) not in lines:
            yield f"{job} is completed and never ran"
        if name.startswith(GUESSING):
            yield f"{job} is completed, although it ends with 7"


def _wrong_outputs() -> Iterator[str]:
    """Yield attempts that have another output than their own, or lack it although their end is known."""
    from container_manager.models import JobAttempt, JobLog

    found: dict[int, bytes] = defaultdict(bytes)
    for attempt, data in JobLog.objects.filter(stream="stdout").order_by("sequence").values_list("attempt", "data"):
        found[attempt] += bytes(data)
    columns = ("pk", "job", "number", "exit_code")
    for key, job, number, exit_code in JobAttempt.objects.values_list(*columns):
        own = output_of(str(job), number)
        # Others may have ended before they wrote it.
        has_ended_by_itself = exit_code in (0, 3, 7)
        if found[key] != own and (has_ended_by_itself or found[key]):
            yield f"{job}: attempt {number} with exit code {exit_code} has the output {found[key]!r}"


def _wrong_engines(hosts: Mapping[str, str]) -> Iterator[str]:
    """Yield attempts that were judged by workers which do not reach their engine, and engines that had none."""
    from container_manager.models import JobAttempt

    had: Counter[str] = Counter()
    attempts = JobAttempt.objects.values_list("job", "number", "engine", "worker", "message")
    for job, number, engine, worker, message in attempts if hosts else ():
        had[engine] += 1
        if not worker.startswith(hosts.get(engine, "?")) and not message.startswith(_UNREACHED):
            yield f"{job}: attempt {number} of engine {engine} was judged by {worker}: {message}"
    yield from (f"no attempt was on {host}" for engine, host in hosts.items() if not had[engine])


def _processes_with(text: str) -> Iterator[int]:
    """Yield the ids of processes whose arguments contain a text."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if text.encode() in arguments and int(path.parent.name) != os.getpid():
            yield int(path.parent.name)
