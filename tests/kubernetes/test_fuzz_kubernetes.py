"""Random jobs on a cluster, odd ones among them: each ends in a status that fits, and leaves nothing."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from django.core.exceptions import ValidationError

from container_manager import queue
from container_manager.models import FINISHED_STATUSES, ContainerJob, JobAttempt

from ..docker import image
from ..docker.random_specs import RandomSpec, described, random_spec
from ..docker.test_fuzz import misfits, processes_with
from ..prerequisites import require
from ..workers import eventually
from .cluster_site import ClusterSite
from .cluster_under_test import ClusterUnderTest

pytestmark = pytest.mark.django_db(transaction=True)
_LONG, _SHORT = 500, 40
# To try others: CM_TEST_FUZZ_SEED.
_SEED = 16
_PATIENCE_SECONDS = 1500
# Nothing goes wrong with the cluster here, so nothing may be blamed on it.
_REASONS = {"error", "signal", "oom", "timeout", "image", "start", "unschedulable"}
# A runtime's own, where it could not start a program.
_START_CODE = 128


def as_of_cluster(spec: RandomSpec, image_name: str) -> RandomSpec:
    """Return a spec as a cluster runs it: another name of the same image, another code of a failed start."""
    fields = {**spec.fields, **({"image": image_name} if spec.fields["image"] == image.IMAGE else {})}
    case = replace(spec.case, exit_code=_START_CODE) if spec.case.reason == "start" else spec.case
    return replace(spec, fields=fields, case=case)


@pytest.mark.timeout(2 * _PATIENCE_SECONDS)
@pytest.mark.parametrize("count", [_SHORT, pytest.param(_LONG, marks=pytest.mark.slow)])
def test_each_random_job_ends_in_a_status_that_fits_and_leaves_no_object(
    cluster: ClusterUnderTest, namespace: str, tmp_path: Path, count: int
) -> None:
    require("A cluster of the tests' own (python -m tests.kubernetes starts one)", cluster.control)
    seed = int(os.environ.get("CM_TEST_FUZZ_SEED", _SEED))
    print(f"CM_TEST_FUZZ_SEED={seed}")  # noqa: T201  # to run a failure again
    random = Random(seed)  # noqa: S311
    options = {"pull": "never", "memory_bytes": 256 << 20, "ignore_missing_limits": True, "unschedulable_seconds": 5}
    site = ClusterSite(cluster, namespace, tmp_path, limits={"grace_seconds": 1}, **options)
    try:
        jobs: dict[ContainerJob, RandomSpec] = {}
        refused: Counter[str] = Counter()
        found: list[str] = []
        for _ in range(count):
            spec = as_of_cluster(random_spec(random), cluster.image)
            surroundings = site.surroundings(spec.fields)
            environment = {**surroundings["environment"], "SITE": namespace}
            try:
                job = queue.enqueue(**{**spec.fields, **surroundings, "environment": environment})
                if not job.existed:
                    jobs[job] = spec
            except ValidationError as error:
                refused.update([*error.message_dict])
                if strangers := set(error.message_dict) - spec.odd:
                    found.append(f"{strangers} refused: {described(spec)}")
        with site.worker("--slots", "16", lease_seconds=60.0) as process:
            open_ones = ContainerJob.objects.exclude(status__in=FINISHED_STATUSES)
            try:
                eventually(lambda: not open_ones.exists(), seconds=_PATIENCE_SECONDS)
            except AssertionError as error:
                error.add_note("\n".join(f"{job.status}: {described(jobs[job])}" for job in open_ones))
                raise
            eventually(lambda: not JobAttempt.objects.filter(finished_at=None).exists())
            assert process.poll() is None
            site.assert_clean()
        for job, spec in jobs.items():
            job.refresh_from_db()
            found += [f"{what}: {described(spec)}" for what in misfits(job, spec, reasons=_REASONS)]
        assert not found, "\n".join(found)
        eventually(lambda: not processes_with(f"SITE={namespace}"))
        ends = Counter((job.status, job.failure_reason) for job in jobs)
        print(f"{len(jobs)} run: {dict(ends)}; refused: {dict(refused)}")  # noqa: T201
    finally:
        site.clean_up()
