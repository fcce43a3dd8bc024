"""What is known of one attempt in the cluster, its Job and its pods, and what becomes of it by that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..base import ExitStatus, Phase
from .api_fields import (
    NODE_GIVEN_UP,
    deletion_asked_at,
    disruption,
    end_reported_at,
    has_run,
    has_started,
    is_bound,
    is_over,
    main_status,
    uid_of,
    version_of,
)
from .labels import POD_ANNOTATION, PROVEN_STOP_ANNOTATION
from .pod_exits import gone_exit, jobs_own_end, pod_exit, unreachable_exit

# On top of its grace period, before a pod on a node that does not answer counts as lost with it.
_UNREACHABLE_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class PodRecord:
    """What is known of a pod. ``asked_at``: when its deletion was asked for first, by the cluster's clock.

    ``ended_at``: by when its node had reported the end, by the same clock: what a node reports later is not counted.
    ``doomed_since``: since when the control plane has given up on its node (monotonic seconds). ``container_id``: the
    first of its container; ``is_twice``: there was another. ``is_gone``: the API has it no more.
    """

    pod: Mapping[str, Any]
    asked_at: datetime | None = None
    ended_at: datetime | None = None
    doomed_since: float | None = None
    container_id: str = ""
    is_twice: bool = False
    is_gone: bool = False
    seen_at: float = 0.0

    def take(self, pod: Mapping[str, Any]) -> None:
        """Note a newer state of the pod."""
        self.pod, self.seen_at = _without_words(pod), time.monotonic()
        if (asked := deletion_asked_at(pod)) is not None:
            self.asked_at = asked if self.asked_at is None else min(asked, self.asked_at)
        if (ended := end_reported_at(pod)) is not None:
            self.ended_at = ended if self.ended_at is None else min(ended, self.ended_at)
        if disruption(pod) in NODE_GIVEN_UP and self.doomed_since is None:
            self.doomed_since = time.monotonic()
        status = main_status(pod)
        container = str(status.get("containerID") or "")
        if container and self.container_id and container != self.container_id:
            self.is_twice = True
        self.container_id = self.container_id or container
        self.is_twice = self.is_twice or int(status.get("restartCount") or 0) > 0

    def exit(self) -> ExitStatus | None:
        if self.is_gone:
            return gone_exit(self.pod, asked_at=self.asked_at, ended_at=self.ended_at, is_twice=self.is_twice)
        return pod_exit(self.pod, asked_at=self.asked_at, ended_at=self.ended_at, is_twice=self.is_twice)

    def is_lost_with_node(self, now: float) -> bool:
        if self.doomed_since is None or not self.pod["metadata"].get("deletionTimestamp"):
            return False
        grace = float(self.pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        return now - self.doomed_since >= grace + _UNREACHABLE_SECONDS


@dataclass(slots=True, kw_only=True)
class ClusterAttempt:
    """What is known of one attempt. Times are this machine's monotonic seconds.

    ``job``: None where the API has none (any more). ``job_seen_at``: since when it is known as it is now; ``kept_at``:
    when it was last known not to be deleted. ``recorded``: the uid of the pod whose end is the attempt's, as the Job's
    annotation says, or as it will. ``has_run``: whether the program itself was seen to run. ``exit``: how it ended;
    once it is known it stays.
    """

    key: str
    job: Mapping[str, Any] | None = None
    job_seen_at: float = 0.0
    kept_at: float = 0.0
    pods: dict[str, PodRecord] = field(default_factory=dict)
    recorded: str = ""
    recorded_at: float = 0.0
    exit: ExitStatus | None = None
    has_started: bool = False
    has_run: bool = False
    hidden_until: float = 0.0

    @property
    def pod(self) -> PodRecord | None:
        """The pod whose end is the attempt's, or will be."""
        if self.recorded:
            return self.pods.get(self.recorded)
        return self.first_pod()

    @property
    def is_recorded(self) -> bool:
        """Whether the Job itself says which pod's end is the attempt's."""
        return self.job is None or (self.job["metadata"].get("annotations") or {}).get(POD_ANNOTATION) == self.recorded

    def first_pod(self) -> PodRecord | None:
        there = [record for record in self.pods.values() if not record.is_gone]
        return min(there, key=lambda each: (each.pod["metadata"]["creationTimestamp"], uid_of(each.pod)), default=None)

    def others(self) -> list[PodRecord]:
        """Return pods beside the recorded one that are there."""
        return [record for uid, record in self.pods.items() if self.recorded not in ("", uid) and not record.is_gone]

    def note_job(self, job: Mapping[str, Any] | None) -> None:
        now = time.monotonic()
        if job is None or self.job is None or not _is_same(job, self.job):
            self.job_seen_at = now
        if job is not None and not job["metadata"].get("deletionTimestamp"):
            self.kept_at = now
        self.job = job and _without_template(job)
        said = str((job or {"metadata": {}})["metadata"].get("annotations", {}).get(POD_ANNOTATION, ""))
        if said and said != self.recorded:
            self.recorded, self.recorded_at = said, time.monotonic()

    def record(self) -> None:
        """Take the pod that has a node for the attempt's: one without has run nothing, and may be replaced."""
        if not self.recorded and (first := self.first_pod()) is not None and is_bound(first.pod):
            self.recorded, self.recorded_at = uid_of(first.pod), time.monotonic()

    @property
    def needs_proof(self) -> bool:
        job = self.job or {"metadata": {}}
        return (job["metadata"].get("annotations") or {}).get(PROVEN_STOP_ANNOTATION) == "true"

    def judge(self, pods_listed_at: float) -> None:
        """Note whether the program has started, and how it ended, once that is certain."""
        if self.exit is not None:
            return
        self.record()
        pod = self.pod
        if pod is not None:
            self.has_started = self.has_started or has_started(pod.pod)
            self.has_run = self.has_run or has_run(pod.pod)
        found: ExitStatus | None = None
        if pod is not None:
            found = pod.exit()
            if found is None and pod.is_lost_with_node(time.monotonic()) and not self.needs_proof:
                found = unreachable_exit(pod.pod)
        elif self.recorded and pods_listed_at > self.recorded_at:
            found = gone_exit(None)
        elif self.job is not None and pods_listed_at > self.job_seen_at:
            found = jobs_own_end(self.job)
        if found is not None and (run := [each for each in self.others() if has_started(each.pod)]):
            if not all(is_over(each.pod) for each in run):
                # They are being stopped. The attempt ends when nothing of it runs.
                return
            name = run[0].pod["metadata"]["name"]
            text = f"The cluster ran the program a second time, in the pod {name}, so its verdict is worth nothing."
            found = ExitStatus(code=found.code, lost=True, message=text)
        self.exit = found

    @property
    def phase(self) -> Phase:
        if self.exit is not None:
            return Phase.EXITED
        return Phase.RUNNING if self.has_started or self.recorded else Phase.CREATED

    @property
    def is_stopped(self) -> bool:
        """Whether nothing of the attempt runs or will, as far as the API tells: for what it must not run beside."""
        return all(each.is_gone or is_over(each.pod) for each in self.pods.values())

    @property
    def is_deleting(self) -> bool:
        return self.job is None or bool(self.job["metadata"].get("deletionTimestamp"))


def _without_template(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a Job without what it runs: a worker keeps those of all workers in memory."""
    metadata = {name: value for name, value in job["metadata"].items() if name != "managedFields"}
    spec = {name: value for name, value in (job.get("spec") or {}).items() if name != "template"}
    return {**job, "metadata": metadata, "spec": spec}


def _without_words(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a pod without its commands and the values of its variables, as `_without_template`."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "managedFields"}
    spec = dict(pod.get("spec") or {})
    spec["containers"] = [
        {
            **{name: value for name, value in each.items() if name not in ("command", "args")},
            "env": [{"name": variable["name"]} for variable in each.get("env") or ()],
        }
        for each in spec.get("containers") or ()
    ]
    return {**pod, "metadata": metadata, "spec": spec}


def _is_same(job: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether both are the same state of the same Job."""
    return uid_of(job) == uid_of(other) and version_of(job) == version_of(other)
