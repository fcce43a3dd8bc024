"""The options of one Kubernetes namespace: how to reach it, what jobs may request, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured

from ...jobs.container_request import container_request
from ...jobs.rules import (
    is_address,
    is_count,
    is_flag,
    is_list,
    is_mapping,
    is_object_name,
    is_path,
    is_positive,
    is_text,
    is_texts,
    is_whole,
    matches,
    or_none,
)
from .labels import CONTAINER, is_reserved

# Our word → the cluster's.
PULL_POLICIES: Mapping[str, str] = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}
# The kinds of volumes, each named by the key that says what is mounted.
VOLUME_KINDS = ("claim", "config_map", "secret", "empty_dir_bytes", "host_path")
# Of the job's container in ``pod_template``: what a job says, or what the verdict depends on.
_OURS_IN_CONTAINER = ("image", "command", "args", "workingDir", "terminationMessagePath", "terminationMessagePolicy")
_OURS_IN_SPEC = ("restartPolicy", "activeDeadlineSeconds", "terminationGracePeriodSeconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesOptions:
    """``OPTIONS`` of a Kubernetes executor.

    Connection. ``kubeconfig``: the path of a file; "": in a pod its own service account, elsewhere what kubectl takes.
    ``context``: one of that file; "": its current one. ``namespace``: where jobs run; "": the pod's own or the
    context's, else ``default``. ``timeout_seconds``: how long an answer may take.

    What jobs may request. ``images``: patterns such as ``"python:3.*"`` or ``"registry.example.com/team/*"``; one
    without a tag allows every tag. ``volumes``: name → what it is, ``{"claim": …}``, ``{"config_map": …}``,
    ``{"secret": …}``, ``{"empty_dir_bytes": …}`` or, since it opens the node, only if you say so, ``{"host_path": …}``;
    each with ``"read_only"`` (True by default but for an ``empty_dir_bytes``) and ``"sub_path"``.
    ``service_accounts``, ``priority_classes``, ``kueue_queues``, ``kueue_priority_classes``: names. ``node_pools``:
    name → ``{"node_selector": {…}, "tolerations": […]}``. ``networks``: names, each the value of the label
    ``container-manager/network``, which your network policies select by. ``platforms``: such as ``"linux/arm64"``.
    ``extra_hosts``: name → address. ``dns``: addresses of servers. ``gpus``: how many at most, of the cluster's
    resource ``gpu_resource``. ``allow_root``: whether jobs may ask for root.

    Maximum and default of each job. ``memory_bytes``, ``cpu_count``, ``storage_bytes`` (files that it writes outside
    of volumes, and its log), ``shm_bytes`` (/dev/shm); None: no limit. ``request_share``: which share of these memory
    and cores the scheduler sets aside; 1: all, so that a node is never overbooked. ``command_bytes``: maximum of a
    command's words together; the API server sends those of all jobs with each list of them.
    ``ignore_missing_limits``: run jobs without the limits that a cluster cannot hold (``pids``, ``ulimits``), which are
    rejected otherwise.

    What every job gets. ``user`` and ``read_only`` (the image's files), if set; otherwise a job may request them.
    ``default_user``: of a job that requests none; "": the image's, by number and not root. ``tmpfs``: path → bytes.
    ``capabilities`` of the kernel; none by default. ``runtime_class``, such as ``gvisor``. ``labels`` of its Job and
    pod. ``node_selector``, ``tolerations``. ``service_account``, ``priority_class``, ``kueue_queue``,
    ``kueue_priority_class``, ``network``, unless it requests another of those allowed. ``results``: whether it finds a
    file for its result, of at most 4 KiB. ``pod_template``: what has no option here: a pod's ``metadata`` and ``spec``,
    merged into ours last; the job's container has the name ``job`` there.

    Images. ``pull``: ``missing``, ``always`` or ``never``. ``image_pull_secrets``: names. ``image_seconds``: how long
    a pull, or a node that starts the pod, may fail before the attempt does.

    ``unschedulable_seconds``: how long an attempt may wait for a node that takes it; None: for ever. ``ttl_seconds``:
    how long the cluster keeps a Job that has ended and that no worker came back for.
    """

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    timeout_seconds: float = 30.0
    images: Sequence[str] = ()
    volumes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    service_accounts: Sequence[str] = ()
    priority_classes: Sequence[str] = ()
    kueue_queues: Sequence[str] = ()
    kueue_priority_classes: Sequence[str] = ()
    node_pools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: Sequence[str] = ()
    platforms: Sequence[str] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    dns: Sequence[str] = ()
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    allow_root: bool = False
    memory_bytes: int | None = None
    cpu_count: float | None = None
    storage_bytes: int | None = None
    shm_bytes: int | None = None
    request_share: float = 1.0
    command_bytes: int = 32 * 1024
    ignore_missing_limits: bool = False
    user: str = ""
    default_user: str = "65534:65534"
    read_only: bool = False
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    runtime_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    service_account: str = ""
    priority_class: str = ""
    kueue_queue: str = ""
    kueue_priority_class: str = ""
    network: str = ""
    results: bool = True
    pod_template: Mapping[str, Any] = field(default_factory=dict)
    pull: str = "missing"
    image_pull_secrets: Sequence[str] = ()
    image_seconds: float = 300.0
    unschedulable_seconds: float | None = 600.0
    ttl_seconds: int = 7 * 24 * 3600


def kubernetes_options(given: Mapping[str, Any]) -> KubernetesOptions:
    """Return the validated options of an alias.

    Raises TypeError for an unknown one, and ImproperlyConfigured that names every wrong one and what it should be.
    """
    known = [f.name for f in fields(KubernetesOptions)]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"a Kubernetes executor has no option {unknown[0]!r}; known: {', '.join(known)}")
    if problems := list(_problems(given)):
        raise ImproperlyConfigured(" ".join(problems))
    return KubernetesOptions(**given)


def _problems(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if not _RULES[name][0](value):
            yield f"The option {name!r} must be {_RULES[name][1]}, not {value!r}."
    for name, value in _mapping(given.get("volumes")).items():
        yield from _volume_problems(name, value)
    yield from _template_problems(_mapping(given.get("pod_template")))
    if _is_root(given) and not given.get("allow_root"):
        yield "The option 'user' or 'default_user' names root: take another, or set 'allow_root'."
    try:
        # The same rules as for a job's requests.
        container_request({"tmpfs": given.get("tmpfs", {})})
    except ValueError as error:
        yield f"Of the options: {error}"


def _is_root(given: Mapping[str, Any]) -> bool:
    return any(
        str(given.get(name, "")).partition(":")[0].strip("0") == ""
        for name in ("user", "default_user")
        if given.get(name)
    )


def _volume_problems(name: object, volume: object) -> Iterator[str]:
    kinds = [kind for kind in VOLUME_KINDS if kind in _mapping(volume)]
    if not isinstance(volume, Mapping) or len(kinds) != 1 or set(volume) - {*kinds, "read_only", "sub_path"}:
        yield (
            f"The volume {name!r} must be a dict with one of {', '.join(VOLUME_KINDS)}, and perhaps 'read_only' and "
            f"'sub_path', not {volume!r}."
        )
        return
    (kind,) = kinds
    is_right, expected = _VOLUME_RULES.get(kind, (is_object_name, "the name of an object in the namespace"))
    if not is_right(volume[kind]):
        yield f"The volume {name!r} needs as {kind!r} {expected}, not {volume[kind]!r}."
    if not isinstance(volume.get("read_only", True), bool):
        yield f"The volume {name!r}: 'read_only' must be true or false, not {volume['read_only']!r}."
    path = volume.get("sub_path", "")
    if path and not (isinstance(path, str) and is_path(f"/{path}")):
        yield f"The volume {name!r}: 'sub_path' must be a relative path without '..', not {path!r}."


def _template_problems(template: Mapping[str, Any]) -> Iterator[str]:
    if odd := sorted(set(template) - {"metadata", "spec"}):
        yield f"The option 'pod_template' has {odd[0]!r}; it takes 'metadata' and 'spec'."
    metadata, spec = _mapping(template.get("metadata")), _mapping(template.get("spec"))
    if odd := sorted(set(metadata) - {"labels", "annotations"}):
        yield f"The option 'pod_template' has 'metadata' {odd[0]!r}; it takes 'labels' and 'annotations'."
    names = [*_mapping(metadata.get("labels")), *_mapping(metadata.get("annotations"))]
    if odd := [name for name in names if is_reserved(str(name))]:
        yield f"The option 'pod_template' sets {odd[0]!r}, which this executor sets itself."
    if odd := [name for name in _OURS_IN_SPEC if name in spec]:
        yield f"The option 'pod_template' sets 'spec' {odd[0]!r}, which this executor sets itself."
    containers = spec.get("containers", [])
    if not isinstance(containers, list | tuple) or not all(_mapping(each).get("name") for each in containers):
        yield "The option 'pod_template' must have as 'containers' a list of dicts, each with a 'name'."
        return
    for each in containers:
        if each["name"] == CONTAINER and (odd := [name for name in _OURS_IN_CONTAINER if name in each]):
            yield f"The option 'pod_template' sets {odd[0]!r} of the job's container, which this executor sets itself."


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


_is_user = matches(re.compile(r"([0-9]{1,10}(:[0-9]{1,10})?)?"))
_is_label = matches(re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"))
_is_label_value = matches(re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"))
_are_labels = is_mapping(_is_label, _is_label_value)
_are_own_labels = is_mapping(lambda name: _is_label(name) and not is_reserved(name), _is_label_value)


def _are_networks(value: object) -> bool:
    return is_texts(value) and all(map(_is_label_value, cast("Sequence[str]", value)))


def _are_tolerations(value: object) -> bool:
    known = {"key", "operator", "value", "effect", "tolerationSeconds"}
    return isinstance(value, list | tuple) and all(isinstance(e, Mapping) and e and set(e) <= known for e in value)


def _are_pools(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        is_text(name)
        and isinstance(pool, Mapping)
        and set(pool) <= {"node_selector", "tolerations"}
        and _are_labels(pool.get("node_selector", {}))
        and _are_tolerations(pool.get("tolerations", ()))
        for name, pool in value.items()
    )


_Rule = tuple[Callable[[Any], object], str]
_TEXT: _Rule = (lambda value: isinstance(value, str), "a text")
_FLAG: _Rule = (is_flag, "true or false")
_NAME: _Rule = (lambda value: value == "" or is_object_name(value), "the name of an object in the cluster")
_NAMES: _Rule = (is_list(is_object_name), "a list of names of objects in the cluster")
_MOST: _Rule = (or_none(is_count), "a whole positive number, or None")
_COUNT: _Rule = (is_count, "a whole positive number")
_SECONDS: _Rule = (is_positive, "a positive number")
_USER: _Rule = (_is_user, 'a user\'s number, or "user:group", both as numbers')
_TOLERATIONS: _Rule = (_are_tolerations, "a list of tolerations, as in a pod's 'tolerations'")
_VOLUME_RULES: Mapping[str, _Rule] = {
    "empty_dir_bytes": (is_count, "its largest size in bytes"),
    "host_path": (is_path, "an absolute path of the node"),
}
_RULES: Mapping[str, _Rule] = {
    "kubeconfig": _TEXT,
    "context": _TEXT,
    "namespace": _NAME,
    "timeout_seconds": _SECONDS,
    "images": (is_texts, "a list of patterns"),
    "volumes": (lambda value: isinstance(value, Mapping), "a dict of names and dicts"),
    "service_accounts": _NAMES,
    "priority_classes": _NAMES,
    "kueue_queues": _NAMES,
    "kueue_priority_classes": _NAMES,
    "node_pools": (_are_pools, 'names and {"node_selector": labels, "tolerations": list}'),
    "networks": (_are_networks, "a list of names that can be a label's value"),
    "platforms": (is_texts, "a list of platforms such as linux/arm64"),
    "extra_hosts": (is_mapping(is_object_name, is_address), "names and addresses"),
    "dns": (is_list(is_address), "a list of addresses"),
    "gpus": (is_whole, "a whole number, 0 for none"),
    "gpu_resource": (_is_label, "the name of a resource such as nvidia.com/gpu"),
    "allow_root": _FLAG,
    "memory_bytes": _MOST,
    "cpu_count": (or_none(is_positive), "a positive number, or None"),
    "storage_bytes": _MOST,
    "shm_bytes": _MOST,
    "request_share": (lambda value: is_positive(value) and value <= 1, "a number above 0, at most 1"),
    "command_bytes": _COUNT,
    "ignore_missing_limits": _FLAG,
    "user": _USER,
    "default_user": _USER,
    "read_only": _FLAG,
    "tmpfs": (is_mapping(is_path, is_count), "absolute paths and sizes in bytes"),
    "capabilities": (is_texts, "a list of names"),
    "runtime_class": _NAME,
    "labels": (_are_own_labels, "a dict of labels that are not this executor's own"),
    "node_selector": (_are_labels, "a dict of labels"),
    "tolerations": _TOLERATIONS,
    "service_account": _NAME,
    "priority_class": _NAME,
    "kueue_queue": _NAME,
    "kueue_priority_class": _NAME,
    "network": (_is_label_value, "a name that can be a label's value"),
    "results": _FLAG,
    "pod_template": (lambda value: isinstance(value, Mapping), "a dict with a pod's 'metadata' and 'spec'"),
    "pull": (lambda value: isinstance(value, str) and value in PULL_POLICIES, f"one of {', '.join(PULL_POLICIES)}"),
    "image_pull_secrets": _NAMES,
    "image_seconds": _SECONDS,
    "unschedulable_seconds": (or_none(is_positive), "a positive number, or None"),
    "ttl_seconds": _COUNT,
}
