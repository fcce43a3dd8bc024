"""Run attempts as Jobs in one namespace of a Kubernetes cluster: the executors' contract, call by call."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

from ...conf import AppSettings
from ...jobs.package_log import package_logger
from ...jobs.sizes import MOST_SECONDS
from ..allow_lists import check_install
from ..base import Capabilities, Executor, ExecutorError, Health, LaunchSpec, LogPage, Observations, Unavailable
from .api_fields import api_time, is_bound, is_over, main_status
from .cluster_acts import ClusterActs
from .cluster_answers import Absent, ApiRefusal, NameTaken
from .cluster_api import ClusterApi, check_connection_options
from .cluster_attempt import ClusterAttempt, PodRecord
from .cluster_rights import missing_rights, said_of
from .cluster_view import ClusterView
from .job_launches import JobLaunches
from .kubernetes_options import KubernetesOptions, kubernetes_options
from .labels import FINALIZER, POD_ANNOTATION, is_of, key_of, object_name
from .pod_output import PodOutputs
from .waiting_launches import WaitingLaunches

# How often attempts are looked at that wait, or are to be stopped; the cluster's news come at once.
_TEND_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
logger = package_logger(__name__)


class KubernetesExecutor(Executor):
    """Starts each attempt as a ``batch/v1`` Job with one pod, that is never replaced.

    ``install`` tells the Jobs of this installation from others in the same namespace. Each namespace has an executor of
    its own.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        survives_worker=True,
        isolates=True,
        launch_threads=4,
        secret_files=True,
        engine_secrets=True,
        separate_streams=False,
    )

    def __init__(self, options: KubernetesOptions, *, install: str) -> None:
        self._options, self._install = options, install
        self._api = ClusterApi(options)
        self._changed = threading.Event()
        self._view = ClusterView(self._api, install=install, changed=self._note_news)
        self._acts = ClusterActs()
        self._waiting = WaitingLaunches(self._api, self._view, self._acts, options)
        self._launches = JobLaunches(self._api, self._view, self._waiting, options, install=install)
        self._outputs = PodOutputs(self._api, self._changed.set)
        # Guards all that follows.
        self._lock = threading.Lock()
        # Those that this worker runs; of these: those whose program it has seen not yet started, and those that ended.
        self._own: set[str] = set()
        self._fresh: set[str] = set()
        self._ended: set[str] = set()
        # By when each is to be stopped, in monotonic seconds, and for when its pod was told so.
        self._stopping: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._noted: set[tuple[str, str]] = set()
        self._news: set[str] = set()
        self._wake = threading.Event()
        self._tender: threading.Thread | None = None
        self._closed = threading.Event()

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        cls.check_options(options, settings)
        return cls(kubernetes_options(options), install=settings.install)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        check_connection_options(kubernetes_options(options))
        check_install(settings)

    def submit(self, spec: LaunchSpec) -> str:
        self._take_on(spec.key)
        attempt = self._view.attempt(spec.key)
        if attempt is None or not (attempt.has_started or attempt.exit is not None):
            with self._lock:
                self._fresh.add(spec.key)
        self._launches.launch(spec, note=partial(self._outputs.note, spec.key))
        self._read_output(spec.key)
        return spec.key

    def observe(self) -> Observations:
        return self._view.observe()

    def watch(self, timeout: float) -> bool:
        changed = self._changed.wait(timeout)
        self._changed.clear()
        return changed

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        self._take_on(handle)
        return self._outputs.page(handle, cursor, limit)

    def stop(self, handle: str, grace_seconds: float) -> None:
        if self._waiting.cancel(handle):
            return
        self._take_on(handle)
        deadline = time.monotonic() + min(grace_seconds, MOST_SECONDS)
        with self._lock:
            self._stopping[handle] = min(deadline, self._stopping.get(handle, math.inf))
        self._note_news((handle,))

    def remove(self, handle: str, *, failed: bool = False) -> None:
        attempt = self._view.attempt(handle)
        self.release(handle)
        try:
            self._delete(handle, attempt)
        except ApiRefusal as error:
            raise Unavailable(str(error)) from error
        self._view.hide(handle)
        self._view.unfollow(handle)

    def release(self, handle: str) -> None:
        with self._lock:
            self._own.discard(handle)
            self._fresh.discard(handle)
            self._ended.discard(handle)
            self._stopping.pop(handle, None)
            self._told.pop(handle, None)
            self._noted = {each for each in self._noted if each[0] != handle}
        self._launches.forget(handle)
        self._outputs.forget(handle)
        self._acts.forget(handle)
        self._view.unfollow(handle)

    def check(self) -> Health:
        if self._closed.is_set():
            return Health(ok=False, message="This executor is closed.")
        try:
            version, namespace = self._api.version(), self._api.namespace
            missing = missing_rights(self._api.review, namespace)
        except ExecutorError as error:
            return Health(ok=False, message=f"{error} The option 'kubeconfig' says where a cluster is.")
        if missing:
            return Health(ok=False, message=said_of(missing, namespace))
        message = f"Kubernetes {version} at {self._api.host}, namespace {namespace}."
        return Health(ok=True, message=message, engine=f"namespace {namespace}"[:64])

    def heartbeat(self, seconds: float) -> None:
        self._launches.heartbeat(seconds)

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._wake.set()
        self._launches.close()
        self._outputs.close()
        self._view.close()
        if self._tender is not None:
            self._tender.join(timeout=_CLOSE_SECONDS)
        self._acts.close()
        self._api.close()

    # -- what this worker's attempts need --------------------------------------------------------------------------

    def _take_on(self, key: str) -> None:
        """Look after an attempt from now on."""
        with self._lock:
            is_new = key not in self._own
            self._own.add(key)
            if self._tender is None and not self._closed.is_set():
                self._tender = threading.Thread(target=self._tend_all, name="container-manager-tend", daemon=True)
                self._tender.start()
        if is_new:
            self._view.follow(key)
            self._note_news((key,))

    def _note_news(self, keys: Iterable[str]) -> None:
        """Take from the view's threads what has changed; no keys: whether the cluster answers."""
        with self._lock:
            ours = self._own.intersection(keys)
            self._news |= ours
        if ours:
            self._wake.set()
        elif not keys:
            self._changed.set()

    def _tend_all(self) -> None:
        """Look after attempts of which there is news, and from time to time after those that wait (its own thread)."""
        due_at = 0.0
        while not self._closed.is_set():
            self._wake.wait(max(0.0, due_at - time.monotonic()))
            self._wake.clear()
            with self._lock:
                keys, self._news = self._news, set()
                if time.monotonic() >= due_at:
                    due_at = time.monotonic() + _TEND_SECONDS
                    keys |= self._own
            for key in keys:
                try:
                    self._tend(key)
                except Unavailable:
                    # The next look is soon.
                    continue
                except Exception:
                    # Of this attempt alone: it would end one worker after another.
                    logger.exception("Looking after %s failed", key)

    def _tend(self, key: str) -> None:
        self._waiting.tend(key)
        attempt = self._view.attempt(key)
        if attempt is None:
            self._stop_unknown(key)
            return
        if attempt.exit is None:
            self._record(attempt)
            self._stop_doubles(attempt)
            self._stop_deleted(attempt)
            self._stop(attempt)
        else:
            self._note_end(key)
        self._read_output(key)

    def _note_end(self, key: str) -> None:
        """Tell the worker of an end. Of all else that happens to a pod it needs no news: each makes it look at all."""
        with self._lock:
            self._stopping.pop(key, None)
            is_new = key in self._own and key not in self._ended
            if is_new:
                self._ended.add(key)
        if is_new:
            self._changed.set()

    def _record(self, attempt: ClusterAttempt) -> None:
        """Write into the Job which pod's end is the attempt's: another worker that adopts it must know."""
        if attempt.job is None or not attempt.recorded or attempt.is_recorded:
            return
        metadata, annotations = attempt.job["metadata"], {POD_ANNOTATION: attempt.recorded}

        def record() -> None:
            self._view.note_job(attempt.key, self._api.annotate_job(metadata["name"], metadata["uid"], annotations))

        self._acts.begin(attempt.key, "record the pod", record)

    def _stop_doubles(self, attempt: ClusterAttempt) -> None:
        """Stop a second pod of an attempt, and one whose container was started again."""
        for record in attempt.others():
            name = record.pod["metadata"]["name"]
            if not _is_ending(record):
                text = f"The cluster has made a second pod of this attempt, {name}: it is stopped."
                self._note_once(attempt.key, name, text)
                self._delete_pod(attempt.key, record, f"stop the second pod {name}", grace_seconds=1)
        pod = attempt.pod
        if pod is not None and pod.is_twice and not _is_ending(pod):
            self._note_once(attempt.key, "twice", "The node has started the program a second time: it is stopped.")
            self._delete_pod(attempt.key, pod, "stop a second start", grace_seconds=1)

    def _stop_deleted(self, attempt: ClusterAttempt) -> None:
        """Stop the pod of a Job that somebody has deleted, unless without its pods (``--cascade=orphan``).

        As long as our finalizer holds the Job, the cluster does that for a deletion in the foreground alone.
        """
        pod, job = attempt.pod, attempt.job
        if job is None or pod is None or not attempt.is_deleting or _is_ending(pod):
            return
        is_cared_for = {"orphan", "foregroundDeletion"}.intersection(job["metadata"].get("finalizers") or ())
        if not is_cared_for and pod.pod["metadata"].get("ownerReferences"):
            self._note_once(attempt.key, "deleted", "Its Job was deleted: its pod is stopped.")
            grace = int(pod.pod["spec"].get("terminationGracePeriodSeconds") or 0)
            self._delete_pod(attempt.key, pod, "stop the pod of a deleted Job", grace_seconds=grace)

    def _stop(self, attempt: ClusterAttempt) -> None:
        """Tell the pod of an attempt to end that is to be stopped."""
        key, pod, job = attempt.key, attempt.pod, attempt.job
        with self._lock:
            deadline, told = self._stopping.get(key), self._told.get(key, math.inf)
        # A pod that is stopped while nobody looks is gone before it has said how its program ended.
        if deadline is None or deadline >= told or not self._view.answers:
            return
        if pod is None or not is_bound(pod.pod):
            # Without a Job there will be no pod, either.
            if job is not None and not attempt.is_deleting:
                metadata = job["metadata"]
                work = partial(self._api.delete_job, metadata["name"], metadata["uid"])
                self._acts.begin(key, "stop the Job", work)
            return
        metadata = pod.pod["metadata"]

        def stop() -> None:
            seconds = max(0, math.ceil(deadline - time.monotonic()))
            self._api.delete_pod(metadata["name"], metadata["uid"], grace_seconds=seconds)
            with self._lock:
                self._told[key] = min(deadline, self._told.get(key, math.inf))

        # Each deadline is an act of its own: a shorter one waits for no pause.
        self._acts.begin(key, f"stop the pod by {deadline:.3f}", stop)

    def _stop_unknown(self, key: str) -> None:
        """Forget to stop what the cluster does not have."""
        with self._lock:
            asked = self._stopping.get(key)
        if asked is not None and self._view.observe().as_of:
            with self._lock:
                self._stopping.pop(key, None)

    def _delete_pod(self, key: str, record: PodRecord, act: str, *, grace_seconds: int) -> None:
        metadata = record.pod["metadata"]
        work = partial(self._api.delete_pod, metadata["name"], metadata["uid"], grace_seconds=grace_seconds)
        self._acts.begin(key, act, work)

    def _note_once(self, key: str, what: str, text: str) -> None:
        with self._lock:
            is_new = (key, what) not in self._noted
            self._noted.add((key, what))
        if is_new:
            self._outputs.note(key, text)

    def _read_output(self, key: str) -> None:
        """Have the log read of a pod whose container has started, and its end noted."""
        attempt = self._view.attempt(key)
        with self._lock:
            if attempt is None or key not in self._own:
                return
            is_fresh = key in self._fresh
        pod = attempt.pod
        if pod is not None:
            state = main_status(pod.pod).get("state") or {}
            ran = state.get("running") or state.get("terminated")
            if ran and ran.get("startedAt"):
                # One that was launched here is read from its start.
                began = None if is_fresh else api_time(ran["startedAt"])
                self._outputs.follow(key, pod.pod["metadata"]["name"], started_at=began)
        if attempt.exit is not None:
            self._outputs.note_end(key, is_lost=attempt.exit.may_run)

    # -- removal -----------------------------------------------------------------------------------------------------

    def _delete(self, key: str, attempt: ClusterAttempt | None) -> None:
        job = None if attempt is None else attempt.job
        if job is None:
            try:
                job = self._api.job(object_name(key))
            except Absent:
                job = None
            if job is not None and not (is_of(job["metadata"], self._install) and key_of(job["metadata"]) == key):
                # Another's.
                job = None
        for record in () if attempt is None else attempt.pods.values():
            # One whose Job does not take it along, ended or not.
            is_left = job is None or not record.pod["metadata"].get("ownerReferences")
            if is_left and not (record.is_gone or record.pod["metadata"].get("deletionTimestamp")):
                self._delete_left_pod(record)
        if job is not None:
            self._delete_job(job["metadata"])
        else:
            self._view.note_job_gone(key)

    def _delete_left_pod(self, record: PodRecord) -> None:
        metadata = record.pod["metadata"]
        grace = int(record.pod["spec"].get("terminationGracePeriodSeconds") or 0)
        try:
            self._api.delete_pod(metadata["name"], metadata["uid"], grace_seconds=grace)
        except (Absent, NameTaken):
            return

    def _delete_job(self, metadata: Mapping[str, Any]) -> None:
        """Delete a Job with its pods, then take our finalizer off: in this order it stays known until it is ending."""
        name, uid = metadata["name"], metadata["uid"]
        try:
            if not metadata.get("deletionTimestamp"):
                self._api.delete_job(name, uid)
            if FINALIZER in (metadata.get("finalizers") or ()):
                self._api.drop_finalizer(name, uid, FINALIZER)
        except (Absent, NameTaken):
            return


def _is_ending(record: PodRecord) -> bool:
    """Tell whether a pod has ended, or was told to."""
    return record.is_gone or is_over(record.pod) or bool(record.pod["metadata"].get("deletionTimestamp"))
