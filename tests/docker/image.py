"""The image of the tests: a static busybox and little else, built without a registry."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

IMAGE = "cm-test:latest"
# The same files with an entrypoint and a command of its own, each of which says that it ran.
ENTRYPOINT_IMAGE = "cm-test:entrypoint"

_PATH = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
_ENTRYPOINT = ['ENTRYPOINT ["/bin/echo", "entrypoint"]', 'CMD ["command"]']


def obstacle() -> str:
    """Say why the image cannot be made here; empty if it can."""
    busybox = shutil.which("busybox")
    # One that names a loader needs libraries, which the image has not.
    if busybox is None or b"/ld-linux" in Path(busybox).read_bytes():
        return "a static busybox is not installed"
    return ""


def archive() -> bytes:
    """Return the image's files as a tar."""
    busybox = shutil.which("busybox")
    assert busybox is not None, obstacle()
    command = [busybox, "--list"]
    applets = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            _add(tar, name, mode=mode, kind=tarfile.DIRTYPE)
        _add(tar, "bin/busybox", Path(busybox).read_bytes(), mode=0o755)
        for applet in applets:
            if applet != "busybox":
                _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\nuser:x:1000:\n")
    return buffer.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type, entry.linkname = len(data), mode, kind, target
    tar.addfile(entry, io.BytesIO(data))


def import_image(url: str, tag: str = IMAGE, *, changes: Sequence[str] = ()) -> None:
    """Make the image in the daemon at ``url``; ``changes`` are lines of a Dockerfile, such as an ENTRYPOINT."""
    import docker

    client = docker.APIClient(base_url=url, timeout=60)
    try:
        # The whole reference as the repository: podman (4.3) ignores the parameter `tag`.
        client.import_image_from_data(archive(), repository=tag, changes=[_PATH, *changes])
        client.inspect_image(tag)
    finally:
        client.close()


def import_images(url: str) -> None:
    """Make both images in the daemon at ``url``."""
    import_image(url)
    import_image(url, ENTRYPOINT_IMAGE, changes=_ENTRYPOINT)
