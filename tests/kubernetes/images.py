"""The images of the cluster's nodes: those of the Docker tests, and the one of pods' sandboxes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from ..docker.image import archive

# Not `latest`, which a kubelet would pull each time.
IMAGE = "cm-test:1"
# The same files with an entrypoint and a command of its own, each of which says that it ran.
ENTRYPOINT_IMAGE = "cm-test:entrypoint"
# What the registries have. A kubelet that has pulled an image lets only those pods use it that may pull it, under
# whatever name: it is not the one that is on the nodes.
PULLED_IMAGE = "cm-test:pulled"
SANDBOX_IMAGE = "cm-sandbox:1"

_PATH = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
_CONFIGURATIONS = {
    IMAGE: {**_PATH, "Cmd": ["/bin/sh"]},
    ENTRYPOINT_IMAGE: {**_PATH, "Entrypoint": ["/bin/echo", "entrypoint"], "Cmd": ["command"]},
    PULLED_IMAGE: {**_PATH, "Cmd": ["/bin/sh"], "Labels": {"pulled": "yes"}},
    # A pod's end waits for it: it ends as soon as it is told to.
    SANDBOX_IMAGE: {"Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait; done"]},
}


def full_name(image: str) -> str:
    """Return the name that containerd has for an image without a registry."""
    return f"docker.io/library/{image}"


def write_archive(path: Path) -> None:
    """Write all images to a file, in the form of `docker save`."""
    layer = archive()
    layer_name = hashlib.sha256(layer).hexdigest()
    manifest = []
    with tarfile.open(path, mode="w") as tar:
        _add(tar, f"{layer_name}/layer.tar", layer)
        for image, configuration in _CONFIGURATIONS.items():
            described = json.dumps(
                {
                    "architecture": _architecture(),
                    "os": "linux",
                    "config": configuration,
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_name}"]},
                }
            ).encode()
            name = f"{hashlib.sha256(described).hexdigest()}.json"
            _add(tar, name, described)
            layers = [f"{layer_name}/layer.tar"]
            manifest.append({"Config": name, "RepoTags": [full_name(image)], "Layers": layers})
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _architecture() -> str:
    """Return this machine's architecture by the name that images have for it."""
    command = ["dpkg", "--print-architecture"]
    debian = subprocess.run(command, check=True, capture_output=True, text=True)
    return debian.stdout.strip()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def ctr(socket: Path, *arguments: str | Path) -> str:
    """Ask the containerd at this socket about Kubernetes' images and containers; return what it answers."""
    command = ["ctr", "--address", str(socket), "--namespace", "k8s.io", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
