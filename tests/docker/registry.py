"""A private registry on the loopback that requires a user and a password."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..ports import free_port
from .image import IMAGE

_START_SECONDS = 180
_STOP_SECONDS = 30


def obstacle() -> str:
    """Say why no registry can be started here; empty if one can."""
    missing = [name for name in ("docker-registry", "htpasswd") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Where the registry is (``host:port``), and who is let in. Daemons need no option to trust the loopback."""

    address: str
    user: str
    password: str = field(repr=False)

    def push(self, url: str, name: str, *, image: str = IMAGE) -> str:
        """Push an image of the daemon at ``url`` under ``name``; return its reference, which that daemon then has not."""
        import docker

        repository, _, tag = name.partition(":")
        repository, tag = f"{self.address}/{repository}", tag or "latest"
        client = docker.APIClient(base_url=url, timeout=60)
        try:
            client.tag(image, repository, tag)
            login = {"username": self.user, "password": self.password}
            for line in client.push(repository, tag, stream=True, decode=True, auth_config=login):
                if "error" in line:
                    raise RuntimeError(line["error"])
            client.remove_image(f"{repository}:{tag}")
        finally:
            client.close()
        return f"{repository}:{tag}"


@contextmanager
def running() -> Iterator[Registry]:
    """Run a registry that is empty at first."""
    with tempfile.TemporaryDirectory(prefix="cm-registry-") as name:
        folder = Path(name)
        registry = Registry(address=f"127.0.0.1:{free_port()}", user="pusher", password=secrets.token_urlsafe(12))
        environment = {**os.environ, **_configured(folder, registry)}
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        with (folder / "log").open("wb") as log:
            # A session of its own: Ctrl-C is for the tests.
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            _await(registry, server, folder / "log")
            yield registry
        finally:
            _end(server)


def _configured(folder: Path, registry: Registry) -> dict[str, str]:
    """Write the registry's files; return what it must find in its environment."""
    command = ["htpasswd", "-niB", registry.user]
    entry = subprocess.run(command, input=registry.password, check=True, capture_output=True, text=True).stdout
    (folder / "htpasswd").write_text(entry)
    (folder / "config.yml").write_text("version: 0.1\n")
    return {
        "REGISTRY_HTTP_ADDR": registry.address,
        "REGISTRY_STORAGE": "filesystem",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(folder / "data"),
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "tests",
        "REGISTRY_AUTH_HTPASSWD_PATH": str(folder / "htpasswd"),
        "OTEL_TRACES_EXPORTER": "none",
    }


def _await(registry: Registry, server: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = registry.address.partition(":")
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_START_SECONDS).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.05)  # a server has no event to wait for before it listens


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
