"""The files into which a container writes result and progress: in its own layer, read by the daemon's archive.

So nothing of the host is mounted, the limits of the layer hold, and they go with the container. A tmpfs is empty, and a
volume outlives the limits.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from ...jobs.progress_lines import PROGRESS_BYTES, whole_lines
from ..base import PROGRESS_VARIABLE, RESULT_VARIABLE
from .daemon import Daemon
from .daemon_answers import Failed, Gone

_RESULT, _PROGRESS = "/container-manager-result", "/container-manager-progress"
# An archive has a file from its beginning: of a longer one the end cannot be read.
_MOST_PROGRESS_BYTES = 256 * 1024
# An archive may have records before a file's header.
_HEADER_BYTES = 16 * tarfile.BLOCKSIZE
# What names them, and which.
_FILES = {f"{RESULT_VARIABLE}={_RESULT}": _RESULT, f"{PROGRESS_VARIABLE}={_PROGRESS}": _PROGRESS}


def offer_files(configuration: dict[str, Any], *, result: bool, progress: bool) -> None:
    """Tell the command where to write, unless all files of its container are read-only."""
    if not configuration["HostConfig"]["ReadonlyRootfs"]:
        offered = [path for path, offers in ((_RESULT, result), (_PROGRESS, progress)) if offers]
        configuration["Env"] += [variable for variable, path in _FILES.items() if path in offered]


def make_files(daemon: Daemon, key: str, configuration: Mapping[str, Any]) -> None:
    """Put empty files that any user may write to into a container that was created, if it is to have them: at once."""
    archive = b""
    for path in (path for variable, path in _FILES.items() if variable in configuration["Env"]):
        file = tarfile.TarInfo(path.removeprefix("/"))
        file.mode = 0o666
        archive += file.tobuf()
    if archive:
        with daemon.client() as api:
            api.put_archive(key, "/", archive + bytes(2 * tarfile.BLOCKSIZE))


def read_result(daemon: Daemon, found: Mapping[str, Any], *, most_bytes: int) -> tuple[bytes | None, str]:
    """Return the result of a container that has ended, as inspected; None: it has left none, or why it is not read."""
    return _read(daemon, found["Id"], _RESULT, most_bytes=most_bytes) if _has(found, _RESULT) else (None, "")


def read_last_progress(daemon: Daemon, found: Mapping[str, Any]) -> bytes | None:
    """Do `read_progress` for a container that has ended, as inspected, if it has the file at all."""
    return read_progress(daemon, found["Id"]) if _has(found, _PROGRESS) else None


def read_progress(daemon: Daemon, container: str) -> bytes | None:
    """Return the last whole lines of a container's progress file; None: it has none, or none that is read."""
    data, _ = _read(daemon, container, _PROGRESS, most_bytes=_MOST_PROGRESS_BYTES)
    return None if data is None else whole_lines(data[-PROGRESS_BYTES:], is_cut=len(data) > PROGRESS_BYTES)


def _has(found: Mapping[str, Any], file: str) -> bool:
    return any(_FILES.get(variable) == file for variable in found["Config"]["Env"] or ())


def _read(daemon: Daemon, container: str, file: str, *, most_bytes: int) -> tuple[bytes | None, str]:
    """Return a file of a container; None: it is not there, or why it is not read.

    The archive is whatever the job has made of the file: of anything but a small file only its header is read.
    """
    path, plain = f"/containers/{container}/archive", {"Accept-Encoding": "identity"}
    try:
        with daemon.stream(path, {"path": file}, headers=plain, silence_seconds=daemon.answer_seconds) as answer:
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
