"""Two registries on the loopback with the same images: one is open, the other asks for a user and a password."""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..ports import free_port
from . import images
from .node import Node
from .server_process import ServerProcess

NAMES = ("registry", "private-registry")
# What both have from the start, beside what a test pushes.
IMAGE_NAME = "team/job:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """Where they are (``host:port``), and who is let in to the private one."""

    address: str
    private_address: str
    user: str
    password: str = field(repr=False)

    @classmethod
    def define(cls, folder: Path, processes: Path) -> Registries:
        """Write their files into ``folder``, and store their programs in ``processes``."""
        folder.mkdir()
        registries = cls(
            address=f"127.0.0.1:{free_port()}",
            private_address=f"127.0.0.1:{free_port()}",
            user="puller",
            password=secrets.token_urlsafe(12),
        )
        (folder / "registries.json").write_text(json.dumps(asdict(registries)))
        command = ["htpasswd", "-niB", registries.user]
        entry = subprocess.run(command, input=registries.password, check=True, capture_output=True, text=True).stdout
        (folder / "htpasswd").write_text(entry)
        (folder / "config.yml").write_text("version: 0.1\n")
        common = {
            "REGISTRY_STORAGE": "filesystem",
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(folder / "data"),
            "OTEL_TRACES_EXPORTER": "none",
        }
        login = {
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "tests",
            "REGISTRY_AUTH_HTPASSWD_PATH": str(folder / "htpasswd"),
        }
        serve = ["docker-registry", "serve", str(folder / "config.yml")]
        for name, settings in (
            ("registry", {"REGISTRY_HTTP_ADDR": registries.address}),
            ("private-registry", {"REGISTRY_HTTP_ADDR": registries.private_address, **login}),
        ):
            ServerProcess.defined(processes, name, serve, {**common, **settings})
        return registries

    @classmethod
    def stored(cls, folder: Path) -> Registries:
        """Return what `define` has written into a folder."""
        return cls(**json.loads((folder / "registries.json").read_text()))

    def push(self, node: Node, name: str = IMAGE_NAME, *, image: str = images.PULLED_IMAGE) -> None:
        """Push an image that a node has under another name, into both."""
        reference = f"{self.address}/{name}"
        images.ctr(node.socket, "images", "push", "--plain-http", reference, images.full_name(image))

    def pull_secret(self, name: str) -> dict[str, Any]:
        """Return a Secret with which a pod is let in to the private one."""
        login = {"username": self.user, "password": self.password}
        logins = json.dumps({"auths": {self.private_address: login}})
        kind = "kubernetes.io/dockerconfigjson"
        return {"metadata": {"name": name}, "type": kind, "stringData": {".dockerconfigjson": logins}}
