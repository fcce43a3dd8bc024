"""The options of one Docker daemon: how to reach it, what jobs may request, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from ...jobs.container_request import container_request
from ...jobs.rules import (
    is_address,
    is_count,
    is_flag,
    is_list,
    is_mapping,
    is_positive,
    is_text,
    is_texts,
    is_whole,
    matches,
    or_none,
)
from ..docker_variables import LOCAL_DAEMON

PULL_POLICIES = ("missing", "always", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    """``OPTIONS`` of a Docker executor.

    Connection. ``base_url``: ``unix://``, ``tcp://`` (then ``tls`` is needed) or ``ssh://``. ``tls``: paths of
    ``ca``, ``cert`` and ``key``. ``timeout_seconds``: how long an answer may take.

    What jobs may request. ``images``: patterns such as ``"python:3.*"`` or ``"registry.example.com/team/*"``; one
    without a tag allows every tag. ``volumes``: name → ``{"source": volume or path on the daemon's host,
    "read_only": …}``, by default read-only; with ``"owner": "uid:gid"`` a volume's folder is given to that user, with
    ``"allow_root": True`` jobs may write to a folder of the host as root. ``networks``: names. ``gpus``: how many at
    most; -1: all. ``platforms``: such as ``"linux/arm64"``. ``extra_hosts``: name → address, or ``host-gateway``.
    ``dns``: addresses of servers.

    Maximum and default of each job. ``pids``: processes and threads. ``memory_bytes`` and
    ``cpu_count``; None: no limit. ``shm_bytes``: the size of /dev/shm; None: no limit, and the daemon's default.
    ``ulimits``: name → value.

    Maximum of each job. ``command_bytes``: of its command's words together; the daemon sends the commands of all
    containers with each list of them. ``storage_bytes``: of the files that a container changes outside of volumes and
    tmpfs, the same for each job, where the daemon's storage driver can limit them; None: no limit.
    ``ignore_missing_limits``: run jobs without the limits that the daemon cannot hold, which are rejected otherwise.

    What every job gets. ``capabilities`` of the kernel; none by default. ``tmpfs``: path → bytes. ``runtime`` of the
    daemon, such as ``runsc``. ``user`` and ``read_only`` (the image's files), if set; otherwise a job may request them.
    ``network``, unless a job requests one of ``networks``. ``results``: whether a job finds a file for its result,
    which takes the daemon two calls more for each container; one whose files are read-only has none. ``progress``:
    whether it finds one for its progress, which takes as many, and one more every five seconds while it runs.

    Image upkeep. ``prepull``: images to pull ahead of jobs. ``unused_images_seconds``: how long an image that jobs may
    run and that nothing uses stays; None: for ever. ``unused_images_bytes``: how much those may take; None: no limit.

    Images. ``pull``: ``missing``, ``always`` or ``never``. ``registries``: host → ``{"username": …, "password":
    reference}``; ``env:CM_REGISTRY_NAME``, or ``file:NAME`` in the folder ``registries`` of SECRETS_DIRECTORY.
    ``pull_stall_seconds``: how long a pull may make no progress. ``pull_retry_seconds``: how long one that fails is
    tried again for an attempt.

    Retention. ``log_bytes``: how much output of a container the daemon keeps at least; at most it keeps twice as much.
    ``keep_failed_seconds``: how long the container of a failed attempt is kept for inspection.
    """

    base_url: str = LOCAL_DAEMON
    tls: Mapping[str, str] | None = None
    timeout_seconds: float = 60.0
    images: Sequence[str] = ()
    volumes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: Sequence[str] = ()
    gpus: int = 0
    platforms: Sequence[str] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    dns: Sequence[str] = ()
    pids: int = 512
    command_bytes: int = 32 * 1024
    ulimits: Mapping[str, int] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    network: str = "none"
    results: bool = False
    progress: bool = False
    user: str = ""
    read_only: bool = False
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: int | None = None
    cpu_count: float | None = None
    shm_bytes: int | None = None
    storage_bytes: int | None = None
    ignore_missing_limits: bool = False
    runtime: str = ""
    pull: str = "missing"
    pull_stall_seconds: float = 60.0
    pull_retry_seconds: float = 300.0
    registries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    prepull: Sequence[str] = ()
    unused_images_seconds: float | None = None
    unused_images_bytes: int | None = None
    log_bytes: int = 128 * 1024 * 1024
    keep_failed_seconds: float = 0.0


def docker_options(given: Mapping[str, Any]) -> DockerOptions:
    """Return the validated options of an alias.

    Raises ImproperlyConfigured that names every wrong one and what it should be.
    """
    if problems := list(_problems(given)):
        raise ImproperlyConfigured(" ".join(problems))
    return DockerOptions(**given)


def _problems(given: Mapping[str, Any]) -> Iterator[str]:
    known = [f.name for f in fields(DockerOptions)]
    for name, value in given.items():
        if name not in known:
            yield f"A Docker executor has no option {name!r}. Known: {', '.join(known)}."
        elif name in _RULES and not _RULES[name][0](value):
            yield f"The option {name!r} must be {_RULES[name][1]}, not {value!r}."
    yield from _url_problems(given)
    if given.get("pull") == "never" and any(given.get(f"unused_images_{unit}") for unit in ("seconds", "bytes")):
        yield "With 'pull' as 'never' an image that was removed for lack of use would be missing for good."
    for network in (given.get("network", ""), *_texts(given.get("networks", ()))):
        if str(network) == "host" or str(network).startswith("container:"):
            yield f"The network {network!r} would let jobs out of their containers: it cannot be allowed."
    try:
        # The same rules as for a job's requests.
        container_request({name: given[name] for name in ("user", "tmpfs", "ulimits") if given.get(name, "") != ""})
    except ValueError as error:
        yield f"Of the options: {error}"


def _url_problems(given: Mapping[str, Any]) -> Iterator[str]:
    url = str(given.get("base_url", LOCAL_DAEMON))
    scheme = urlsplit(url).scheme
    if scheme not in ("unix", "tcp", "ssh"):
        yield f"The option 'base_url' must begin with unix://, tcp:// or ssh://, not {url!r}."
    if scheme == "tcp" and not given.get("tls"):
        yield "A daemon at tcp:// without 'tls' would obey whoever reaches its port: give 'tls', or use ssh://."
    tls = given.get("tls")
    if tls is not None and not (_are_all_texts(tls) and set(tls) == {"ca", "cert", "key"}):
        yield f"The option 'tls' must name the files 'ca', 'cert' and 'key', not {tls!r}."


def _texts(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


_is_owner = matches(re.compile(r"[0-9]{1,9}:[0-9]{1,9}"))
_are_all_texts = is_mapping(lambda key: isinstance(key, str), lambda value: isinstance(value, str))


def _are_volumes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(volume, Mapping)
        and isinstance(volume.get("source"), str)
        and volume["source"] != ""
        and set(volume) <= {"source", "read_only", "owner", "allow_root"}
        and isinstance(volume.get("read_only", True), bool)
        and isinstance(volume.get("allow_root", False), bool)
        and ("owner" not in volume or _may_have_owner(volume))
        for volume in value.values()
    )


def _may_have_owner(volume: Mapping[str, Any]) -> bool:
    """Tell whether it is a volume of the daemon that jobs may write to: whose a host's folder is, the host decides."""
    is_folder, read_only = volume["source"].startswith("/"), volume.get("read_only", True)
    return _is_owner(volume["owner"]) and not is_folder and not read_only


def _are_registries(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _are_all_texts(login) and set(login) == {"username", "password"} for login in value.values()
    )


_LISTS = "a list of names"
_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "timeout_seconds": (is_positive, "a positive number"),
    "images": (is_texts, "a list of patterns"),
    "volumes": (
        _are_volumes,
        'names and {"source": volume or path, "read_only": true or false}, with "allow_root": true or false for a path '
        'and "owner": "uid:gid" for a volume that is no path and not read-only',
    ),
    "networks": (is_texts, _LISTS),
    "gpus": (lambda value: is_whole(value) or (type(value) is int and value == -1), "a number, or -1 for all"),
    "platforms": (is_texts, "a list of platforms such as linux/arm64"),
    "extra_hosts": (
        is_mapping(is_text, lambda value: value == "host-gateway" or is_address(value)),
        'names and addresses, or "host-gateway"',
    ),
    "dns": (is_list(is_address), "a list of addresses"),
    "shm_bytes": (or_none(is_count), "a positive number, or None"),
    "pids": (is_count, "a positive number"),
    "command_bytes": (is_count, "a positive number"),
    "capabilities": (is_texts, _LISTS),
    "network": (is_text, "the name of a network"),
    "results": (is_flag, "true or false"),
    "progress": (is_flag, "true or false"),
    "read_only": (is_flag, "true or false"),
    "memory_bytes": (or_none(is_count), "a positive number, or None"),
    "storage_bytes": (or_none(is_count), "a positive number, or None"),
    "ignore_missing_limits": (is_flag, "true or false"),
    "cpu_count": (or_none(is_positive), "a positive number, or None"),
    "runtime": (lambda value: isinstance(value, str), "the name of a runtime"),
    "pull": (lambda value: value in PULL_POLICIES, f"one of {', '.join(PULL_POLICIES)}"),
    "pull_stall_seconds": (is_positive, "a positive number"),
    "pull_retry_seconds": (is_positive, "a positive number"),
    "registries": (_are_registries, 'hosts and {"username": name, "password": reference}'),
    "prepull": (is_texts, "a list of images"),
    "unused_images_seconds": (or_none(is_positive), "a positive number, or None"),
    "unused_images_bytes": (or_none(is_count), "a positive number, or None"),
    "log_bytes": (is_count, "a positive number"),
    "keep_failed_seconds": (lambda value: value == 0 or is_positive(value), "a number of seconds"),
}
