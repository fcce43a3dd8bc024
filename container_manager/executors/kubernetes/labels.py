"""Names of what this executor writes into a cluster: objects, labels, annotations, the finalizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256

_PREFIX = "container-manager"
# On Jobs, pods and Secrets: `label_value` of the installation, and of the attempt's key.
INSTALL_LABEL = f"{_PREFIX}/install"
KEY_LABEL = f"{_PREFIX}/key"
# On Jobs and pods: both as they are. A label's value has at most 63 characters, and not each.
INSTALL_ANNOTATION = f"{_PREFIX}/install"
KEY_ANNOTATION = f"{_PREFIX}/key"
# On Jobs, written when a worker first sees the pod: its uid. The verdict is that pod's.
POD_ANNOTATION = f"{_PREFIX}/pod-uid"
# On Jobs, "true" where the job asks for it: an adopting worker knows it too.
PROVEN_STOP_ANNOTATION = f"{_PREFIX}/retry-after-proven-stop"
# On pods: network policies select by it.
NETWORK_LABEL = f"{_PREFIX}/network"
# On Jobs: the job's own labels as JSON, since not each can be a label.
LABELS_ANNOTATION = f"{_PREFIX}/labels"
# Prefix of a job's own labels. Programs of the cluster act on labels (policies, quotas, Kueue), which a job must not
# control.
JOB_LABELS = "job.container-manager/"
KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
KUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
# Holds a Job until its log and its end are stored.
FINALIZER = f"{_PREFIX}/stored"
# The container of a pod that runs the job; a cluster may add others.
CONTAINER = "job"
# A Job gives its own name to its pods as a label, and pods' host names are cut at as many.
_MOST_CHARACTERS = 63
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_LABEL = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DIGEST_CHARACTERS = 20


def object_name(key: str) -> str:
    """Return the name of an attempt's Job and Secret: its key, or its end and a digest where a name cannot be so."""
    if len(key) <= _MOST_CHARACTERS and _NAME.fullmatch(key):
        return key
    # The end says which job and attempt it is: "0123…cdef-1".
    end = re.sub("[^a-z0-9-]", "-", key.lower())[-(_MOST_CHARACTERS - _DIGEST_CHARACTERS - 4) :].strip("-")
    return f"cm-{_digest(key)}-{end}".strip("-")


def label_value(text: str) -> str:
    """Return a text as the value of a label: itself where it can be one, else a digest of it."""
    if len(text) <= _MOST_CHARACTERS and _VALUE.fullmatch(text):
        return text
    return f"sha256-{_digest(text)}"


def is_reserved(name: str) -> bool:
    """Tell whether a label or annotation has a name that only this executor sets, or Kubernetes and Kueue for it."""
    prefix = name.partition("/")[0] if "/" in name else ""
    ours = (_PREFIX, JOB_LABELS.removesuffix("/"), "batch.kubernetes.io", KUEUE_QUEUE_LABEL.partition("/")[0])
    return prefix in ours or name in ("job-name", "controller-uid")


def is_label(name: str, value: str) -> bool:
    """Tell whether a cluster takes these as a label: ``name`` with its prefix."""
    return _LABEL.fullmatch(name) is not None and len(value) <= _MOST_CHARACTERS and _VALUE.fullmatch(value) is not None


def install_selector(install: str) -> str:
    """Return the label selector of an installation's objects."""
    return f"{INSTALL_LABEL}={label_value(install)}"


def is_of(metadata: Mapping[str, object], install: str) -> bool:
    """Tell whether an object is this installation's, by its ``metadata`` as the API gives it."""
    annotations = metadata.get("annotations")
    return isinstance(annotations, Mapping) and annotations.get(INSTALL_ANNOTATION) == install


def key_of(metadata: Mapping[str, object]) -> str:
    """Return the key of the attempt that an object is part of; "" where it has none."""
    annotations = metadata.get("annotations")
    return str(annotations.get(KEY_ANNOTATION, "")) if isinstance(annotations, Mapping) else ""


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
