"""Translate an attempt into the objects that run it: pure functions that apply the allow-lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...jobs.secret_references import EngineSecret, engine_secret
from ..allow_lists import allowed_or_default, allowed_volumes, at_most, check_launch, cores, fixed, require_allowed
from ..base import RESULT_BYTES_VARIABLE, RESULT_VARIABLE, SECRETS_VARIABLE, LaunchSpec, Rejected
from .kubernetes_options import PULL_POLICIES, KubernetesOptions
from .labels import (
    CONTAINER,
    FINALIZER,
    INSTALL_ANNOTATION,
    INSTALL_LABEL,
    JOB_LABELS,
    KEY_ANNOTATION,
    KEY_LABEL,
    KUEUE_PRIORITY_LABEL,
    KUEUE_QUEUE_LABEL,
    LABELS_ANNOTATION,
    NETWORK_LABEL,
    PROVEN_STOP_ANNOTATION,
    is_label,
    label_value,
    object_name,
)
from .pod_templates import merged
from .secret_manifests import check_secrets, file_key, variable_key

SECRETS_FOLDER = "/run/secrets/container-manager"
# The kubelet makes the file, for any user, also where the root is read-only.
RESULT_PATH = "/dev/container-manager-result"
# The kubelet reads a byte more: where it has read that much, there may be more.
MOST_RESULT_BYTES = 4095
# Behind our own timeout: for as long no worker may have been there.
NET_SECONDS = 3600
# The store of a cluster (etcd) takes 1.5 MiB by default, and the object grows by what the cluster adds.
_MOST_BYTES = 1024 * 1024
_ROOT = ("0", "root")


def job_manifest(spec: LaunchSpec, options: KubernetesOptions, *, install: str) -> dict[str, Any]:
    """Return the ``batch/v1`` Job of an attempt, as the API's JSON; its name is `labels.object_name` of the key.

    No secret's value is in it. Raises Rejected where the job requests what the options do not allow, or what no
    cluster can give.
    """
    check_launch(spec, images=options.images, command_bytes=options.command_bytes)
    _require_honoured(spec, options)
    check_secrets(spec)
    labels = {**options.labels, **_job_labels(spec), **_own_labels(spec, install)}
    annotations = {INSTALL_ANNOTATION: install, KEY_ANNOTATION: spec.key}
    kueue = _kueue_labels(spec, options)
    pod = merged({"metadata": {}, "spec": _pod(spec, options)}, options.pod_template)
    pod["metadata"] = {
        "labels": {**pod["metadata"].get("labels", {}), **labels, **_network_labels(spec, options)},
        "annotations": {**pod["metadata"].get("annotations", {}), **annotations},
    }
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": object_name(spec.key),
            "labels": {**labels, **kueue},
            "annotations": {**annotations, **_own_annotations(spec)},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": options.ttl_seconds,
            # Kueue resumes it.
            **({"suspend": True} if kueue else {}),
            "template": pod,
        },
    }
    if (size := len(json.dumps(manifest))) > _MOST_BYTES:
        raise Rejected(
            "start",
            f"The job's command, variables and labels make {size} bytes of JSON; a cluster takes about {_MOST_BYTES}. "
            "Pass long input in a file.",
        )
    return manifest


def wants_result(spec: LaunchSpec, options: KubernetesOptions) -> bool:
    """Tell whether a job finds a file for its result."""
    return options.results or bool(spec.job.task)


def _require_honoured(spec: LaunchSpec, options: KubernetesOptions) -> None:
    """Raise Rejected for what no cluster can give, unless the options say that a job runs without it."""
    asked = [name for name in ("pids", "ulimits") if getattr(spec.container, name)]
    if asked and not options.ignore_missing_limits:
        raise Rejected(
            "start",
            f"A pod cannot have what the job asks for: {', '.join(asked)}. Set such limits on the nodes (a kubelet's "
            "podPidsLimit), or let jobs run without them by the executor's option 'ignore_missing_limits'.",
        )


def _job_labels(spec: LaunchSpec) -> dict[str, str]:
    """Return those of the job's own labels that a cluster takes; the others are in an annotation alone."""
    labels = {f"{JOB_LABELS}{name}": str(value) for name, value in spec.job.labels.items()}
    return {name: value for name, value in labels.items() if is_label(name, value)}


def _own_labels(spec: LaunchSpec, install: str) -> dict[str, str]:
    return {INSTALL_LABEL: label_value(install), KEY_LABEL: label_value(spec.key)}


def _own_annotations(spec: LaunchSpec) -> dict[str, str]:
    return {
        **({LABELS_ANNOTATION: json.dumps(spec.job.labels)} if spec.job.labels else {}),
        **({PROVEN_STOP_ANNOTATION: "true"} if spec.container.retry_after_proven_stop else {}),
    }


def _network_labels(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, str]:
    network = allowed_or_default(
        "network", spec.container.network, options.networks, options.network, option="networks"
    )
    return {NETWORK_LABEL: network} if network else {}


def _kueue_labels(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, str]:
    asked = spec.container
    queue = allowed_or_default(
        "Kueue queue", asked.kueue_queue, options.kueue_queues, options.kueue_queue, option="kueue_queues"
    )
    priority = allowed_or_default(
        "Kueue priority class",
        asked.kueue_priority_class,
        options.kueue_priority_classes,
        options.kueue_priority_class,
        option="kueue_priority_classes",
    )
    if not queue:
        if asked.kueue_priority_class:
            raise Rejected("start", "The job asks for a priority class of Kueue and for no queue of it: name one.")
        return {}
    return {KUEUE_QUEUE_LABEL: queue, **({KUEUE_PRIORITY_LABEL: priority} if priority else {})}


def _pod(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, Any]:
    asked = spec.container
    service_account = allowed_or_default(
        "service account",
        asked.service_account,
        options.service_accounts,
        options.service_account,
        option="service_accounts",
    )
    priority = allowed_or_default(
        "priority class",
        asked.priority_class,
        options.priority_classes,
        options.priority_class,
        option="priority_classes",
    )
    volumes, mounts = _volumes(spec, options)
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.job.grace_seconds,
        **_net(spec, options),
        "automountServiceAccountToken": bool(service_account),
        **({"serviceAccountName": service_account} if service_account else {}),
        "enableServiceLinks": False,
        # As the first process of a namespace it would get no signal that it has no handler for, TERM neither.
        "shareProcessNamespace": True,
        **({"priorityClassName": priority} if priority else {}),
        **({"runtimeClassName": options.runtime_class} if options.runtime_class else {}),
        **(
            {"imagePullSecrets": [{"name": n} for n in options.image_pull_secrets]}
            if options.image_pull_secrets
            else {}
        ),
        **_placement(spec, options),
        **_names(spec, options),
        "securityContext": _pod_security(spec, options),
        "containers": [_container(spec, options, mounts)],
        **({"volumes": volumes} if volumes else {}),
    }


def _net(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, int]:
    """Return when the kubelet ends the pod, should no worker be there to do it.

    The pod's own and not the Job's: its clock begins on the node, and what is left of the container stays to be seen.
    """
    if spec.job.timeout_seconds is None:
        return {}
    seconds = spec.job.timeout_seconds + spec.job.grace_seconds + round(options.image_seconds) + NET_SECONDS
    return {"activeDeadlineSeconds": min(seconds, 2**31 - 1)}


def _placement(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, Any]:
    asked, selector, tolerations = spec.container, dict(options.node_selector), list(options.tolerations)
    if pool := asked.node_pool:
        require_allowed("node pool", [pool], options.node_pools, option="node_pools")
        selector.update(options.node_pools[pool].get("node_selector", {}))
        tolerations.extend(options.node_pools[pool].get("tolerations", ()))
    if asked.platform:
        require_allowed("platform", [asked.platform], options.platforms, option="platforms")
        system, architecture, *_ = asked.platform.split("/")
        selector.update({"kubernetes.io/os": system, "kubernetes.io/arch": architecture})
    return {
        **({"nodeSelector": selector} if selector else {}),
        **({"tolerations": [dict(each) for each in tolerations]} if tolerations else {}),
    }


def _names(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, Any]:
    """Return what the pod knows of other hosts, in addition to what the cluster tells."""
    hosts, servers = spec.container.extra_hosts, spec.container.dns
    require_allowed("host", hosts, options.extra_hosts, option="extra_hosts")
    require_allowed("DNS server", servers, options.dns, option="dns")
    return {
        **({"hostAliases": [{"ip": options.extra_hosts[n], "hostnames": [n]} for n in hosts]} if hosts else {}),
        **({"dnsPolicy": "None", "dnsConfig": {"nameservers": list(servers)}} if servers else {}),
    }


def _user(spec: LaunchSpec, options: KubernetesOptions) -> tuple[int | None, int | None]:
    """Return user and group as numbers; None: the image's."""
    user = fixed("user", spec.container.user, options.user) or options.default_user
    if not user:
        return None, None
    name, _, group = user.partition(":")
    if not (name.isdecimal() and (group or "0").isdecimal()):
        raise Rejected(
            "start",
            f'The job asks for the user {user!r}. A pod takes numbers only, such as "1000:1000"; ask for these.',
        )
    if not int(name) and not options.allow_root:
        raise Rejected(
            "start",
            'The job asks to run as root. Ask for another user, such as "1000:1000", or have the executor\'s option '
            "'allow_root' set.",
        )
    return int(name), int(group) if group else None


def _pod_security(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, Any]:
    """Return the security context of the "restricted" Pod Security Standard, unless the options allow root."""
    user, group = _user(spec, options)
    return {
        "seccompProfile": {"type": "RuntimeDefault"},
        **({} if user == 0 or (user is None and options.allow_root) else {"runAsNonRoot": True}),
        **({} if user is None else {"runAsUser": user}),
        # The group of a volume's files: a claim's are root's otherwise.
        **({} if group is None else {"runAsGroup": group, "fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"}),
    }


def _container(spec: LaunchSpec, options: KubernetesOptions, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    entrypoint = spec.container.entrypoint_words
    return {
        "name": CONTAINER,
        "image": spec.job.image,
        "imagePullPolicy": PULL_POLICIES[options.pull],
        # A cluster puts variables into "$(NAME)"; doubled, each dollar sign stays what it is.
        **({"command": [_literal(word) for word in entrypoint]} if entrypoint else {}),
        **({"args": [_literal(word) for word in spec.argv]} if spec.argv else {}),
        **({"workingDir": spec.job.working_directory} if spec.job.working_directory else {}),
        "env": _variables(spec, options),
        "resources": _resources(spec, options),
        **({"volumeMounts": mounts} if mounts else {}),
        **({"terminationMessagePath": RESULT_PATH} if wants_result(spec, options) else {}),
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": fixed("read_only", spec.container.read_only, options.read_only),
            "capabilities": {
                "drop": ["ALL"],
                **({"add": list(options.capabilities)} if options.capabilities else {}),
            },
        },
    }


def _variables(spec: LaunchSpec, options: KubernetesOptions) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = []
    for name, value in spec.environment.items():
        if name in spec.job.secrets:
            variables.append(_secret_variable(name, EngineSecret(object_name(spec.key), variable_key(spec, name))))
        else:
            variables.append({"name": name, "value": _literal(value)})
    for name, reference in spec.job.secrets.items():
        if (found := engine_secret(str(reference))) is not None:
            variables.append(_secret_variable(name, found))
    if _file_sources(spec):
        variables.append({"name": SECRETS_VARIABLE, "value": SECRETS_FOLDER})
    if wants_result(spec, options):
        variables.append({"name": RESULT_VARIABLE, "value": RESULT_PATH})
        variables.append({"name": RESULT_BYTES_VARIABLE, "value": str(MOST_RESULT_BYTES)})
    return variables


def _secret_variable(name: str, secret: EngineSecret) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def _literal(text: str) -> str:
    return text.replace("$", "$$")


def _resources(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, Any]:
    asked = spec.container
    memory = at_most("memory_bytes", spec.job.memory_bytes, options.memory_bytes)
    cpus = cores(spec.job.cpu_count, options.cpu_count)
    storage = at_most("storage_bytes", asked.storage_bytes, options.storage_bytes)
    if asked.gpus == -1 or asked.gpus > options.gpus:
        what = "all GPUs, which no cluster gives" if asked.gpus == -1 else f"{asked.gpus} GPUs"
        raise Rejected("start", f"The job asks for {what}; the executor's option 'gpus' allows {options.gpus}.")
    limits = {
        **({"memory": str(memory)} if memory else {}),
        **({"cpu": _millicores(cpus)} if cpus else {}),
        **({"ephemeral-storage": str(storage)} if storage else {}),
        **({options.gpu_resource: str(asked.gpus)} if asked.gpus else {}),
    }
    share = options.request_share
    requests = {
        **limits,
        **({"memory": str(max(1, round(memory * share)))} if memory else {}),
        **({"cpu": _millicores(cpus * share)} if cpus else {}),
    }
    return {"limits": limits, "requests": requests} if limits else {}


def _millicores(cpus: float) -> str:
    return f"{max(1, round(cpus * 1000))}m"


def _volumes(spec: LaunchSpec, options: KubernetesOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of the pod, and where its container has them."""
    asked = spec.container
    allowed_volumes(asked.volumes, options.volumes)
    pairs = [
        *(_memory(path, size) for path, size in _memory_sizes(spec, options).items()),
        *(_allowed_volume(path, options.volumes[name]) for name, path in asked.volumes.items()),
        *_secret_volume(spec),
    ]
    paths = [mount["mountPath"].rstrip("/") for _, mount in pairs]
    if doubled := [path for path in paths if paths.count(path) > 1]:
        raise Rejected("start", f"The job has two volumes at {doubled[0]!r}.")
    volumes, mounts = [], []
    for number, (volume, mount) in enumerate(pairs):
        # A name of its own for each: one volume may be mounted at two paths.
        volumes.append({"name": f"v{number}", **volume})
        mounts.append({"name": f"v{number}", **mount})
    return volumes, mounts


def _memory_sizes(spec: LaunchSpec, options: KubernetesOptions) -> dict[str, int]:
    shm = at_most("shm_bytes", spec.container.shm_bytes, options.shm_bytes)
    return {**options.tmpfs, **spec.container.tmpfs, **({"/dev/shm": shm} if shm else {})}  # noqa: S108  # in the pod


def _memory(path: str, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}, {"mountPath": path}


def _allowed_volume(path: str, volume: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    is_empty = "empty_dir_bytes" in volume
    read_only = volume.get("read_only", not is_empty)
    mount = {"mountPath": path, "readOnly": read_only}
    if volume.get("sub_path"):
        mount["subPath"] = volume["sub_path"]
    if is_empty:
        return {"emptyDir": {"sizeLimit": str(volume["empty_dir_bytes"])}}, mount
    if "claim" in volume:
        return {"persistentVolumeClaim": {"claimName": volume["claim"], "readOnly": read_only}}, mount
    if "config_map" in volume:
        return {"configMap": {"name": volume["config_map"]}}, mount
    if "secret" in volume:
        return {"secret": {"secretName": volume["secret"]}}, mount
    return {"hostPath": {"path": volume["host_path"]}}, mount


def _secret_volume(spec: LaunchSpec) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the volume of the secrets that the job has as files, if it has any."""
    if sources := _file_sources(spec):
        yield {"projected": {"sources": sources, "defaultMode": 0o444}}, {"mountPath": SECRETS_FOLDER, "readOnly": True}


def _file_sources(spec: LaunchSpec) -> list[dict[str, Any]]:
    """Return where the job's secret files come from: the attempt's own Secret, and those of the cluster."""
    own = [{"key": file_key(spec, name), "path": name} for name in spec.secret_files]
    sources: list[dict[str, Any]] = [{"secret": {"name": object_name(spec.key), "items": own}}] if own else []
    for name, reference in spec.job.secret_files.items():
        if (found := engine_secret(str(reference))) is not None:
            sources.append({"secret": {"name": found.name, "items": [{"key": found.key, "path": name}]}})
    return sources
