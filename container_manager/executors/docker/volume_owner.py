"""Give the folder of a volume that is new to the user that the options name: the daemon makes it root's."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from typing import Any

from ..base import Unavailable
from .configuration import INSTALL_LABEL, KEY_LABEL
from .daemon import Daemon

_FOLDER = "owned"
_ROOT = (0, 0)


def give_new_volumes(daemon: Daemon, key: str, configuration: Mapping[str, Any], owners: Mapping[str, str]) -> None:
    """Give volumes of an attempt's container, before it is started, to their owners: path → ``uid:gid``.

    One that is not root's any more is not new. Raises what the daemon's calls raise.
    """
    mounts = {mount["Target"]: mount for mount in configuration["HostConfig"]["Mounts"]}
    for path, owner in owners.items():
        folder = _folder(daemon, key, path)
        if (folder.uid, folder.gid) == _ROOT:
            folder.name, (folder.uid, folder.gid) = _FOLDER, map(int, owner.split(":"))
            _unpack(daemon, key, configuration, mounts[path], folder)


def _folder(daemon: Daemon, key: str, path: str) -> tarfile.TarInfo:
    """Return what the archive of a container's folder begins with: the folder itself."""
    address, plain = f"/containers/{key}/archive", {"Accept-Encoding": "identity"}
    with daemon.stream(address, {"path": path}, headers=plain, silence_seconds=daemon.answer_seconds) as answer:
        beginning = b""
        for piece in answer.pieces():
            beginning += piece
            if len(beginning) >= tarfile.BLOCKSIZE:
                break
    try:
        return tarfile.TarInfo.frombuf(beginning[: tarfile.BLOCKSIZE], tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        raise Unavailable(f"The Docker daemon's archive of {path!r} was not understood: {error}") from error


def _unpack(
    daemon: Daemon, key: str, configuration: Mapping[str, Any], mount: Mapping[str, Any], folder: tarfile.TarInfo
) -> None:
    """Unpack an archive of this folder alone over a volume's.

    That takes a container whose own files are not read-only; it is never started. As attempt 0, which no job has, it is
    removed with what belongs to no attempt if this worker dies here.
    """
    name = f"{key.rpartition('-')[0]}-0"
    helper = {
        "Image": configuration["Image"],
        "Cmd": ["true"],
        "Labels": {INSTALL_LABEL: configuration["Labels"][INSTALL_LABEL], KEY_LABEL: name},
        "HostConfig": {"NetworkMode": "none", "Mounts": [{**mount, "Target": f"/{_FOLDER}"}]},
    }
    try:
        with daemon.client() as api:
            api.create_container_from_config(helper, name=name)
            api.put_archive(name, "/", folder.tobuf() + bytes(2 * tarfile.BLOCKSIZE))
    finally:
        daemon.remove(name)
