"""The shipped Deployment of workers on a real cluster: what becomes of jobs while their workers are replaced."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes.client import ApiException

from container_manager.models import ContainerJob, JobAttempt, Worker

from ..workers import eventually
from .cluster_site import attempts_of, notes_on_output, output_of
from .cluster_under_test import ClusterUnderTest
from .control import ClusterControl
from .deployed_site import ROLLOUT_SECONDS, DeployedSite, PodHistory, deployed_site
from .deployment import WORKERS_NAMESPACE

pytestmark = pytest.mark.django_db(transaction=True)
_BEGIN, _END = (f'echo "{word} $CONTAINER_MANAGER_JOB" >> $EFFECTS/runs' for word in ("begin", "end"))
# One that writes line after line until it is told to end, then how many it was.
_COUNT = "i=0; while ! test -e $EFFECTS/go; do echo line $i; i=$((i+1)); sleep 0.2; done"
_LONG = f'{_BEGIN}; {_COUNT}; echo "$i" > $EFFECTS/$CONTAINER_MANAGER_JOB; {_END}'
_SHORT = f"{_BEGIN}; echo short; {_END}"
# Without a look for two minutes, three more 30 s apart, and the pod's grace period.
_PROBE_SECONDS = 600


@pytest.fixture
def deployed(
    cluster: ClusterUnderTest, control: ClusterControl, tmp_path: Path
) -> Iterator[tuple[DeployedSite, PodHistory]]:
    """The deployment, alone on the cluster: its namespaces and the API server's address are there once."""
    with deployed_site(cluster, tmp_path) as found:
        yield found


def hosts(jobs: list[ContainerJob]) -> dict[Any, str]:
    """Return the pod whose worker has the open attempt of each job; "" while none has."""
    workers = dict(Worker.objects.values_list("id", "host"))
    owners = dict(JobAttempt.objects.filter(job__in=jobs, finished_at=None).values_list("job_id", "worker"))
    return {job.pk: workers.get(owners.get(job.pk), "") for job in jobs}


def start_on_each(site: DeployedSite, pods: list[str], *, least: int = 2) -> list[ContainerJob]:
    """Return long jobs that run, so many in the hands of each worker."""
    jobs: list[ContainerJob] = []

    def has_each() -> bool:
        owned = Counter(hosts(jobs).values())
        return all(owned[pod] >= least for pod in pods)

    while not has_each():
        assert len(jobs) < 40, f"Not all of {pods} claim jobs: {hosts(jobs)}"
        jobs.append(site.enqueue(_LONG, max_retries=3))
        await_begun(site, jobs)
    return jobs


def await_begun(site: DeployedSite, jobs: list[ContainerJob]) -> None:
    eventually(lambda: {f"begin {job.pk}" for job in jobs} <= {*site.runs()})


def assert_each_ran_once(site: DeployedSite, jobs: list[ContainerJob]) -> None:
    """Assert that each job has completed in its one attempt, whose program ran once."""
    for job in jobs:
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")], site._story(job)
    assert Counter(site.runs()) == Counter(f"{word} {job.pk}" for job in jobs for word in ("begin", "end"))


def assert_complete_output(site: DeployedSite, jobs: list[ContainerJob]) -> None:
    """Assert that all lines of long jobs are stored, each once and in order."""
    for job in jobs:
        count = int((site.effects() / str(job.pk)).read_text())
        assert output_of(job) == b"".join(b"line %d\n" % number for number in range(count)), site._story(job)
        assert notes_on_output(job) == []


@pytest.mark.shows("explanation/kubernetes.md#when-something-is-away", "explanation/kubernetes.md#restarted-controller")
@pytest.mark.shows("explanation/kubernetes.md#when-something-is-away")
def test_a_rolling_update_of_the_deployment_keeps_running_jobs_and_runs_each_job_once(
    deployed: tuple[DeployedSite, PodHistory],
) -> None:
    site, history = deployed
    before = site.worker_pods()
    assert len(before) == 2
    jobs = start_on_each(site, before)
    site.roll()
    short: list[ContainerJob] = []

    def is_done() -> bool:
        # Workers end, and begin, in the midst of launches and of ends.
        if not short or ContainerJob.objects.filter(pk=short[-1].pk, status="completed").exists():
            short.append(site.enqueue(_SHORT, max_retries=3))
        return site.is_rolled_out()

    eventually(is_done, seconds=ROLLOUT_SECONDS)
    after = site.worker_pods()
    assert len(after) == 2
    assert not {*after}.intersection(before)
    site.await_end_of(before)
    # What ran in the hands of the old ones is in those of the new ones, and none has ended.
    eventually(lambda: {*hosts(jobs).values()} <= {*after})
    assert set(Worker.objects.values_list("host", flat=True)) == {*after}
    assert {*ContainerJob.objects.filter(pk__in=[job.pk for job in jobs]).values_list("status", flat=True)} == {
        "running"
    }
    (site.effects() / "go").touch()
    assert_each_ran_once(site, [*jobs, *short])
    assert_complete_output(site, jobs)
    assert {output_of(job) for job in short} == {b"short\n"}
    site.assert_clean()
    for pod in before:
        end = history.end_of(pod)
        assert (end["exitCode"], end["reason"]) == (0, "Completed"), end
        assert datetime.fromisoformat(end["finishedAt"]) < datetime.fromisoformat(history.killed_at(pod))
    # Each was ready by its probe before another one ended, and none was restarted by its.
    assert all(history.was_ready(pod) for pod in (*before, *after))
    assert history.restarts() == 0


def test_workers_are_drained_one_after_the_other_and_their_jobs_go_on(
    deployed: tuple[DeployedSite, PodHistory],
) -> None:
    site, history = deployed
    before = site.worker_pods()
    jobs = start_on_each(site, before, least=1)
    for pod in before:
        [other] = {*site.worker_pods()} - {pod}
        # As `kubectl drain` does: where the budget does not allow it, it asks again.
        eventually(lambda pod=pod: is_evicted(site, pod))
        assert not is_evicted(site, other)
        site.await_end_of([pod])
        eventually(lambda: len(site.worker_pods()) == 2)
        site.await_rolled_out()
    eventually(lambda: {*hosts(jobs).values()} <= {*site.worker_pods()})
    (site.effects() / "go").touch()
    assert_each_ran_once(site, jobs)
    assert_complete_output(site, jobs)
    site.assert_clean()
    assert [history.end_of(pod)["exitCode"] for pod in before] == [0, 0]


def is_evicted(site: DeployedSite, pod: str) -> bool:
    """Evict a worker's pod; return False where the disruption budget does not let it."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": WORKERS_NAMESPACE}}
    try:
        site.cluster.core.create_namespaced_pod_eviction(pod, WORKERS_NAMESPACE, body)
    except ApiException as error:
        if error.status != 429:
            raise
        return False
    return True


def test_a_worker_that_hangs_is_restarted_by_its_probe_and_another_worker_adopts_its_jobs(
    deployed: tuple[DeployedSite, PodHistory],
) -> None:
    site, history = deployed
    hung, other = site.worker_pods()
    jobs = start_on_each(site, [hung, other], least=1)
    [process] = [each for each in psutil.process_iter() if is_worker_of(each, hung)]
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: {*hosts(jobs).values()} == {other})
    eventually(lambda: history.restarts() == 1, seconds=_PROBE_SECONDS)
    site.await_rolled_out()
    assert site.worker_pods() == [hung, other]
    eventually(lambda: Worker.objects.filter(host=hung).exists())
    (site.effects() / "go").touch()
    assert_each_ran_once(site, jobs)
    assert_complete_output(site, jobs)
    site.assert_clean()


def is_worker_of(process: psutil.Process, pod: str) -> bool:
    try:
        return process.environ().get("HOSTNAME") == pod and "worker" in process.cmdline()
    except psutil.Error:
        return False
