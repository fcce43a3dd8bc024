"""Random jobs, odd ones among them: each ends in a status that fits, and leaves nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from random import Random

import pytest
from django.core.exceptions import ValidationError

from container_manager import queue
from container_manager.jobs.spec import JobSpec
from container_manager.models import FINISHED_STATUSES, ContainerJob, FailureReason, JobAttempt

from ..workers import eventually
from .random_specs import CASES, RandomSpec, described, random_spec
from .site import Site

pytestmark = pytest.mark.django_db(transaction=True)
_LONG, _SHORT = 1000, 60
# To try others: CM_TEST_FUZZ_SEED.
_SEED = 14
_PATIENCE_SECONDS = 900
# The daemon makes them in a writable volume that a job has at /etc.
_MOUNT_POINTS = {"hosts", "hostname", "resolv.conf"}
# Nothing goes wrong with the engine here, so nothing may be blamed on it.
_REASONS = {"error", "signal", "oom", "timeout", "image", "start"}


def processes_with(environment: str) -> list[str]:
    """Return the command lines of processes that have this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and environment.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def misfits(job: ContainerJob, spec: RandomSpec, *, reasons: Collection[str] = _REASONS) -> Iterator[str]:
    """Yield what is wrong with a job's end, which may have these reasons."""
    case, attempts = spec.case, list(job.attempts.order_by("number"))
    if not spec.odd and (job.status, job.failure_reason) != (case.status, case.reason):
        yield f"{job.status} {job.failure_reason} {job.last_error!r}, expected {case.status} {case.reason}"
    if not spec.odd and case.exit_code is not None and job.exit_code != case.exit_code:
        yield f"exit code {job.exit_code}, expected {case.exit_code}"
    if job.status == "completed" and (case.status != "completed" or job.exit_code != 0):
        yield f"completed, exit code {job.exit_code}"
    if job.status == "completed" and job.task:
        yield "completed, though no command of these hands out the result of a task"
    if job.status == "failed":
        if job.failure_reason not in reasons:
            yield f"failed as {job.failure_reason!r}: {job.last_error}"
        told = ("no result of the task", "used more files")
        if job.failure_reason == "error" and not job.exit_code and not any(each in job.last_error for each in told):
            yield f"an error with the exit code {job.exit_code}"
        if job.failure_reason == "timeout" and job.timeout_seconds is None:
            yield "a timeout without a limit"
        if not job.last_error:
            yield "no reason is given"
    if job.status == "cancelled":
        yield "nobody has cancelled it"
    if [attempt.number for attempt in attempts] != list(range(1, job.attempt + 1)):
        yield f"attempts {[attempt.number for attempt in attempts]}, expected {job.attempt}"
    if len(attempts) > 1 + job.max_retries:
        yield f"{len(attempts)} attempts with {job.max_retries} retries"


def volumes_of(site: Site) -> set[str]:
    """Return the daemon's volumes without those that another installation of the tests has named."""
    names = {str(volume["Name"]) for volume in site.api.volumes()["Volumes"] or ()}
    return {name for name in names if name.startswith(site.install) or not name.startswith("test-")}


@pytest.mark.timeout(2 * _PATIENCE_SECONDS)
@pytest.mark.parametrize("count", [_SHORT, pytest.param(_LONG, marks=pytest.mark.slow)])
@pytest.mark.shows("explanation/attacks.md#to-confuse-the-worker")
def test_each_random_job_ends_in_a_status_that_fits_and_leaves_nothing(
    docker_url: str, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("CM_TEST_FUZZ_SEED", _SEED))
    print(f"CM_TEST_FUZZ_SEED={seed}")  # noqa: T201  # to run a failure again
    random = Random(seed)  # noqa: S311
    site = Site(docker_url, tmp_path, limits={"grace_seconds": 1}, pull="never", pids=64, memory_bytes=256 << 20)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    try:
        volumes = volumes_of(site)
        jobs: dict[ContainerJob, RandomSpec] = {}
        refused: Counter[str] = Counter()
        found: list[str] = []
        for _ in range(count):
            spec = random_spec(random)
            try:
                job = queue.enqueue(**{**spec.fields, **site.surroundings(spec.fields)})
                if not job.existed:
                    jobs[job] = spec
                elif job.unique_key != spec.fields.get("unique_key"):
                    found.append(f"took the place of {described(spec)}: {described(jobs[job])}")
            except ValidationError as error:
                refused.update([*error.message_dict])
                if strangers := set(error.message_dict) - spec.odd:
                    found.append(f"{strangers} refused: {described(spec)}")
        monkeypatch.setenv("TMPDIR", str(scratch))
        with site.worker("--slots", "12", UNREACHABLE_SECONDS=20, lease_seconds=60.0) as process:
            open_ones = ContainerJob.objects.exclude(status__in=FINISHED_STATUSES)
            eventually(lambda: not open_ones.exists(), seconds=_PATIENCE_SECONDS)
            eventually(lambda: not JobAttempt.objects.filter(finished_at=None).exists())
            assert process.poll() is None
            site.assert_clean()
        for job, spec in jobs.items():
            job.refresh_from_db()
            found += [f"{what}: {described(spec)}" for what in misfits(job, spec)]
        assert not found, "\n".join(found)
        # Those of other tests, which have no name either, go with their containers.
        eventually(lambda: volumes_of(site) <= volumes)
        # A container is removed when its processes are dead; the kernel takes them away a moment later.
        eventually(lambda: not processes_with(f"EFFECTS={site.effects()}"))
        assert list(scratch.iterdir()) == []
        assert {path.name for path in site.effects().iterdir()} <= _MOUNT_POINTS
        ends = Counter((job.status, job.failure_reason) for job in jobs)
        print(f"{len(jobs)} run: {dict(ends)}; refused: {dict(refused)}")  # noqa: T201
    finally:
        site.clean_up()


@pytest.mark.without_database
def test_random_jobs_have_every_field_and_every_case() -> None:
    random = Random(_SEED)  # noqa: S311
    specs = [random_spec(random) for _ in range(_LONG)]
    assert {name for spec in specs for name in spec.odd} == set(JobSpec._fields) - {"executor", "queue", "command"}
    assert {spec.case for spec in specs} == {*CASES.values()}
    assert {case.reason for case in CASES.values()} <= {*FailureReason.values, ""}
