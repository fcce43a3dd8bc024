"""The file into which a container writes its job's result: in the container's own layer, read by the daemon's archive.

So nothing of the host is mounted, the limits of the layer hold, and it goes with the container. A tmpfs is empty, and a
volume outlives the limits.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from ..base import RESULT_VARIABLE
from .daemon import Daemon, Failed, Gone

_NAME = "container-manager-result"
_PATH = f"/{_NAME}"
# An archive may have records before a file's header.
_HEADER_BYTES = 16 * tarfile.BLOCKSIZE
_VARIABLE = f"{RESULT_VARIABLE}={_PATH}"


def offer_result(configuration: dict[str, Any]) -> None:
    """Tell the command where to write, unless all files of its container are read-only."""
    if not configuration["HostConfig"]["ReadonlyRootfs"]:
        configuration["Env"].append(_VARIABLE)


def make_result_file(daemon: Daemon, key: str, configuration: Mapping[str, Any]) -> None:
    """Put an empty file that any user may write to into a container that was created, if it is to have one."""
    if _VARIABLE in configuration["Env"]:
        file = tarfile.TarInfo(_NAME)
        file.mode = 0o666
        with daemon.client() as api:
            api.put_archive(key, "/", file.tobuf() + bytes(2 * tarfile.BLOCKSIZE))


def read_result(daemon: Daemon, found: Mapping[str, Any], *, most_bytes: int) -> tuple[bytes | None, str]:
    """Return the result of a container that has ended, as inspected; None: it has left none, or why it is not read.

    The archive is whatever the job has made of the file: of anything but a small file only its header is read.
    """
    if _VARIABLE not in (found["Config"]["Env"] or ()):
        return None, ""
    path, plain = f"/containers/{found['Id']}/archive", {"Accept-Encoding": "identity"}
    try:
        with daemon.stream(path, {"path": _PATH}, headers=plain, silence_seconds=daemon.answer_seconds) as answer:
            data = bytearray()
            for piece in answer.pieces():
                data += piece
                if len(data) >= _HEADER_BYTES + most_bytes:
                    break
        return _content(bytes(data), most_bytes)
    except Gone:
        # It has removed the file.
        return None, ""
    except Failed as error:
        # Said of this file: the daemon answers.
        return None, f"The Docker daemon does not give it out: {error}"


def _content(archive: bytes, most_bytes: int) -> tuple[bytes | None, str]:
    try:
        with tarfile.open(fileobj=BytesIO(archive), mode="r:") as opened:
            file = opened.next()
            if file is None or not (file.isreg() or file.issym()):
                return None, "It is no regular file."
            if file.issym():
                return None, "It is a symbolic link."
            if file.size > most_bytes:
                return None, f"It has more than {most_bytes} bytes."
            content = opened.extractfile(file)
            return (content.read() if content is not None else None), ""
    except (tarfile.TarError, OSError, ValueError) as error:
        return None, f"The Docker daemon's archive of it was not understood: {error}."
