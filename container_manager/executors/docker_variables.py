"""Executor options from Docker's own variables, for settings files. The SDK is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

LOCAL_DAEMON = "unix:///var/run/docker.sock"


def docker_daemon(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the options of a Docker executor for the daemon that Docker's own variables name.

    ``DOCKER_HOST``, by default the local socket; with ``DOCKER_TLS_VERIFY``, the certificates in ``DOCKER_CERT_PATH``.
    """
    options: dict[str, object] = {"base_url": environment.get("DOCKER_HOST") or LOCAL_DAEMON}
    if environment.get("DOCKER_TLS_VERIFY"):
        folder = Path(environment.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
        options["tls"] = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    return options
