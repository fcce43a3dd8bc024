"""Translate an attempt into the daemon's call to create a container: pure functions that apply the allow-lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from ..base import LaunchSpec, Rejected
from .flavours import DOCKER, Flavour
from .options import DockerOptions

T = TypeVar("T", int, float)
V = TypeVar("V", str, bool)
INSTALL_LABEL = "container-manager.install"
KEY_LABEL = "container-manager.key"
# Prefix of a job's own labels: some programs act on the labels of containers, which a job must not control.
JOB_LABELS = "container-manager.job."
_HUB = ("docker.io/", "index.docker.io/")
# The kernel's minimum; the daemon rounds a smaller share to no limit at all.
_LEAST_CPUS = 0.01
# A limit, since the daemon sends all labels with each list and each event.
_LABEL_CHARACTERS = 16 * 1024


def container_configuration(
    spec: LaunchSpec, options: DockerOptions, *, install: str, flavour: Flavour = DOCKER
) -> dict[str, Any]:
    """Return the body of the daemon's call to create the container.

    Raises Rejected where the job requests what the options do not allow.
    """
    if not spec.job.image:
        raise Rejected("image", "The job names no image.")
    if not is_allowed(spec.job.image, options):
        allowed = ", ".join(options.images) or "none"
        raise Rejected(
            "image",
            f"The image {spec.job.image!r} is not allowed. Allowed by the executor's option 'images': {allowed}.",
        )
    if sum(len(name) + len(str(value)) for name, value in spec.job.labels.items()) > _LABEL_CHARACTERS:
        raise Rejected("start", f"The job's labels have more than {_LABEL_CHARACTERS} characters.")
    if spec.container.gpus and not flavour.has_gpus:
        raise Rejected("start", f"The job asks for GPUs, which {flavour.name} does not give through this API.")
    configuration: dict[str, Any] = {
        "Image": spec.job.image,
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "WorkingDir": spec.job.working_directory,
        "User": _fixed("user", spec.container.user, options.user),
        "Labels": {
            **{f"{JOB_LABELS}{name}": str(value) for name, value in spec.job.labels.items()},
            INSTALL_LABEL: install,
            KEY_LABEL: spec.key,
        },
        "HostConfig": {
            **_with_binds(_host_configuration(spec, options), flavour),
            "LogConfig": flavour.log_configuration(options.log_bytes),
        },
    }
    if spec.argv:
        configuration["Cmd"] = list(spec.argv)
    return configuration


def is_allowed(image: str, options: DockerOptions) -> bool:
    """Return whether an image matches one of the patterns, name and tag separately."""
    name, version = _split(image)
    for pattern in options.images:
        allowed_name, allowed_version = _split(pattern)
        if fnmatchcase(name, allowed_name) and (
            not allowed_version or fnmatchcase(version or "latest", allowed_version)
        ):
            return True
    return False


def _split(reference: str) -> tuple[str, str]:
    """Return an image's name, without the Docker Hub's host, and its tag or digest.

    A colon before the last slash is a registry's port, which no pattern's tag may match.
    """
    name, _, digest = reference.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    name = path + slash + last
    # Only one is removed: after it, the other would be the name of a user.
    hub = next((hub for hub in _HUB if name.startswith(hub)), "")
    return name.removeprefix(hub).removeprefix("library/"), digest or tag


def _host_configuration(spec: LaunchSpec, options: DockerOptions) -> dict[str, Any]:
    asked = spec.container
    memory = _at_most("memory_bytes", spec.job.memory_bytes, options.memory_bytes)
    cpus = _at_most("cpu_count", spec.job.cpu_count, options.cpu_count)
    if cpus and not _LEAST_CPUS <= cpus < math.inf:
        raise Rejected("start", f"The job asks for cpu_count={cpus}; the least that can be given is {_LEAST_CPUS}.")
    return {
        "Init": True,
        "CapDrop": ["ALL"],
        "CapAdd": list(options.capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "IpcMode": "private",
        "RestartPolicy": {"Name": "no"},
        "NetworkMode": _network(spec, options),
        "ReadonlyRootfs": _fixed("read_only", asked.read_only, options.read_only),
        "Tmpfs": {
            path: f"rw,noexec,nosuid,nodev,size={size}" for path, size in {**options.tmpfs, **asked.tmpfs}.items()
        },
        "Mounts": _mounts(spec, options),
        "PidsLimit": _at_most("pids", asked.pids, options.pids),
        "Ulimits": _ulimits(asked.ulimits, options),
        # Swap counts as memory: a job over its limit is killed, not slowed down.
        **({"Memory": memory, "MemorySwap": memory} if memory else {}),
        **({"NanoCpus": round(cpus * 1e9)} if cpus else {}),
        **({"Runtime": options.runtime} if options.runtime else {}),
        "DeviceRequests": _devices(asked.gpus, options),
    }


def _network(spec: LaunchSpec, options: DockerOptions) -> str:
    network = spec.container.network
    if network and network != options.network and network not in options.networks:
        allowed = ", ".join(options.networks) or "none"
        raise Rejected(
            "start", f"The network {network!r} is not allowed. Allowed by the executor's option 'networks': {allowed}."
        )
    return network or options.network


def _mounts(spec: LaunchSpec, options: DockerOptions) -> list[dict[str, Any]]:
    mounts = []
    for name, target in spec.container.volumes.items():
        if name not in options.volumes:
            allowed = ", ".join(options.volumes) or "none"
            raise Rejected(
                "start", f"There is no volume {name!r}. Allowed by the executor's option 'volumes': {allowed}."
            )
        volume = options.volumes[name]
        is_path, read_only = volume["source"].startswith("/"), volume.get("read_only", True)
        mounts.append(
            {
                "Type": "bind" if is_path else "volume",
                "Source": volume["source"],
                "Target": target,
                "ReadOnly": read_only,
                **({"BindOptions": {"Propagation": "rprivate"}} if is_path else {}),
                # The daemon fills an empty volume from the image, even one that is mounted read-only.
                **({"VolumeOptions": {"NoCopy": True}} if read_only and not is_path else {}),
            }
        )
    return mounts


def _with_binds(host: dict[str, Any], flavour: Flavour) -> dict[str, Any]:
    """Return the configuration with binds for mounts without copy, which some engines take only as these."""
    if flavour.takes_no_copy:
        return host
    empty = [mount for mount in host["Mounts"] if "VolumeOptions" in mount]
    return {
        **host,
        "Mounts": [mount for mount in host["Mounts"] if mount not in empty],
        "Binds": [f"{mount['Source']}:{mount['Target']}:ro,nocopy" for mount in empty],
    }


def _ulimits(asked: Mapping[str, int], options: DockerOptions) -> list[dict[str, Any]]:
    if unknown := sorted(set(asked) - set(options.ulimits)):
        allowed = ", ".join(options.ulimits) or "none"
        raise Rejected(
            "start",
            f"A job cannot set the limit {unknown[0]!r}. Allowed by the executor's option 'ulimits': {allowed}.",
        )
    return [
        {"Name": name, "Soft": value, "Hard": value}
        for name, most in options.ulimits.items()
        for value in [_at_most(name, asked.get(name), most)]
    ]


def _devices(gpus: int, options: DockerOptions) -> list[dict[str, Any]]:
    if not gpus:
        return []
    if options.gpus != -1 and not 0 < gpus <= options.gpus:
        asked = "all GPUs" if gpus == -1 else f"{gpus} GPUs"
        raise Rejected("start", f"The job asks for {asked}; the executor's option 'gpus' allows {options.gpus}.")
    return [{"Driver": "", "Count": gpus, "Capabilities": [["gpu"]]}]


def _at_most(name: str, asked: T | None, most: T | None) -> T | None:
    """Return what a job requests, else the maximum, which is also the default; None: no limit."""
    if asked is not None and most is not None and asked > most:
        raise Rejected("start", f"The job asks for {name}={asked}; the executor allows {most}.")
    return asked or most


def _fixed(name: str, asked: V | None, given: V) -> V:
    """Return the executor's option; where it is not set, what a job requests."""
    if given and asked not in (None, "", given):
        raise Rejected("start", f"The job asks for {name}={asked!r}; the executor's option says {given!r}.")
    return given or asked or given
