"""Translate an attempt into the daemon's call to create a container: pure functions that apply the allow-lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...jobs.container_request import CLUSTER_REQUESTS
from ..allow_lists import allowed_volumes, at_most, check_launch, cores, fixed, require_allowed
from ..base import SECRETS_VARIABLE, LaunchSpec, Rejected
from .flavours import DOCKER, Flavour
from .options import DockerOptions

INSTALL_LABEL = "container-manager.install"
KEY_LABEL = "container-manager.key"
# Prefix of a job's own labels: some programs act on the labels of containers, which a job must not control.
JOB_LABELS = "container-manager.job."
# Where docker's own secrets are, too.
SECRETS_FOLDER = "/run/secrets"


def container_configuration(
    spec: LaunchSpec, options: DockerOptions, *, install: str, flavour: Flavour = DOCKER
) -> dict[str, Any]:
    """Return the body of the daemon's call to create the container.

    Raises Rejected where the job requests what the options do not allow.
    """
    check_launch(spec, images=options.images, command_bytes=options.command_bytes)
    entrypoint = spec.container.entrypoint_words
    if asked := [name for name in CLUSTER_REQUESTS if getattr(spec.container, name)]:
        raise Rejected(
            "start", f"{flavour.name} cannot give what the job asks for: {', '.join(asked)}. Use a Kubernetes executor."
        )
    if spec.container.gpus and not flavour.has_gpus:
        raise Rejected("start", f"The job asks for GPUs, which {flavour.name} does not give through this API.")
    configuration: dict[str, Any] = {
        "Image": spec.job.image,
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "WorkingDir": spec.job.working_directory,
        "User": fixed("user", spec.container.user, options.user),
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
    if entrypoint:
        configuration["Entrypoint"] = entrypoint
    require_allowed(
        "platform", [spec.container.platform] if spec.container.platform else [], options.platforms, option="platforms"
    )
    return configuration


def fit_cores(configuration: Mapping[str, Any], host_cores: int) -> bool:
    """Lower a limit above what the daemon's host has, which the daemon refuses; return whether there was one."""
    host, most = configuration["HostConfig"], round(host_cores * 1e9)
    if host.get("NanoCpus", 0) <= most:
        return False
    host["NanoCpus"] = most
    return True


def volume_owners(spec: LaunchSpec, options: DockerOptions) -> dict[str, str]:
    """Return by their paths in the container whose its volumes are to be: ``uid:gid``, as the options say."""
    asked = {path: options.volumes[name] for name, path in spec.container.volumes.items()}
    return {path: volume["owner"] for path, volume in asked.items() if "owner" in volume}


def add_secret_files(configuration: dict[str, Any], folder: Path) -> None:
    """Mount a folder of the daemon's host that has the secrets which a job has as files."""
    mounts = configuration["HostConfig"]["Mounts"]
    mounts.append({"Type": "bind", "Source": str(folder), "Target": SECRETS_FOLDER, "ReadOnly": True})
    configuration["Env"].append(f"{SECRETS_VARIABLE}={SECRETS_FOLDER}")


def _host_configuration(spec: LaunchSpec, options: DockerOptions) -> dict[str, Any]:
    asked = spec.container
    memory = at_most("memory_bytes", spec.job.memory_bytes, options.memory_bytes)
    cpus = cores(spec.job.cpu_count, options.cpu_count)
    return {
        "Init": True,
        "CapDrop": ["ALL"],
        "CapAdd": list(options.capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "IpcMode": "private",
        "RestartPolicy": {"Name": "no"},
        "NetworkMode": _network(spec, options),
        "ReadonlyRootfs": fixed("read_only", asked.read_only, options.read_only),
        "Tmpfs": {
            path: f"rw,noexec,nosuid,nodev,size={size}" for path, size in {**options.tmpfs, **asked.tmpfs}.items()
        },
        "Mounts": _mounts(spec, options),
        "PidsLimit": at_most("pids", asked.pids, options.pids),
        "Ulimits": _ulimits(asked.ulimits, options),
        # Swap counts as memory: a job over its limit is killed, not slowed down.
        **({"Memory": memory, "MemorySwap": memory} if memory else {}),
        **({"NanoCpus": round(cpus * 1e9)} if cpus else {}),
        **({"StorageOpt": {"size": str(options.storage_bytes)}} if options.storage_bytes else {}),
        **({"Runtime": options.runtime} if options.runtime else {}),
        "DeviceRequests": _devices(asked.gpus, options),
        **({"ShmSize": shm} if (shm := at_most("shm_bytes", asked.shm_bytes, options.shm_bytes)) else {}),
        **_names(spec, options),
    }


def _network(spec: LaunchSpec, options: DockerOptions) -> str:
    network = spec.container.network
    if network and network != options.network and network not in options.networks:
        allowed = ", ".join(options.networks) or "none"
        raise Rejected(
            "start", f"The network {network!r} is not allowed. Allowed by the executor's option 'networks': {allowed}."
        )
    return network or options.network


def _names(spec: LaunchSpec, options: DockerOptions) -> dict[str, Any]:
    """Return what the container knows of other hosts, in addition to what its network tells."""
    hosts, servers = spec.container.extra_hosts, spec.container.dns
    require_allowed("host", hosts, options.extra_hosts, option="extra_hosts")
    require_allowed("DNS server", servers, options.dns, option="dns")
    return {
        **({"ExtraHosts": [f"{name}:{options.extra_hosts[name]}" for name in hosts]} if hosts else {}),
        **({"Dns": list(servers)} if servers else {}),
    }


def _require_no_root(name: str, spec: LaunchSpec, options: DockerOptions) -> None:
    """Raise Rejected where a job would write to a folder of the host as root, or may.

    A file with the setuid bit there makes whoever runs it on the host that file's owner. What a mount of the container
    forbids (nosuid) does not hold there. The image says who a user's name is, so only a number tells.
    """
    user, _, _ = (options.user or spec.container.user).partition(":")
    if not user.isdecimal() or not int(user):
        raise Rejected(
            "start",
            f"The volume {name!r} is a folder of the daemon's host that jobs may write to. Whatever root leaves there "
            'may be run as root on the host, so ask for another user, by number, such as "1000:1000"; or have the '
            f"executor's options set 'user', or 'allow_root' for this volume.",
        )


def _mounts(spec: LaunchSpec, options: DockerOptions) -> list[dict[str, Any]]:
    allowed_volumes(spec.container.volumes, options.volumes)
    mounts = []
    for name, target in spec.container.volumes.items():
        volume = options.volumes[name]
        is_path, read_only = volume["source"].startswith("/"), volume.get("read_only", True)
        if is_path and not read_only and not volume.get("allow_root"):
            _require_no_root(name, spec, options)
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
        for value in [at_most(name, asked.get(name), most, option="ulimits")]
    ]


def _devices(gpus: int, options: DockerOptions) -> list[dict[str, Any]]:
    if not gpus:
        return []
    if options.gpus != -1 and not 0 < gpus <= options.gpus:
        asked = "all GPUs" if gpus == -1 else f"{gpus} GPUs"
        raise Rejected("start", f"The job asks for {asked}; the executor's option 'gpus' allows {options.gpus}.")
    return [{"Driver": "", "Count": gpus, "Capabilities": [["gpu"]]}]
