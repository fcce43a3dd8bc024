"""Have the daemon pull images, with the registries' logins, and understand what it says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from docker.auth import resolve_repository_name
from docker.errors import APIError, DockerException
from docker.utils import parse_repository_tag

from ...secret_references import read_secret
from ..base import Rejected, Unavailable
from .daemon import Daemon, explanation
from .options import DockerOptions

# The daemon answers 500, or an error in its stream, both where a registry refuses and where it cannot be reached.
_UNREACHABLE = (
    "connection refused",
    "connection reset",
    "no such host",
    "server misbehaving",
    "temporary failure",
    "timeout",
    "deadline exceeded",
    "request canceled",
    "network is unreachable",
    "no route to host",
    "tls handshake",
    "unexpected eof",
    "toomanyrequests",
    "502 bad gateway",
    "503 service",
    "504 gateway",
)


class Images:
    """Pulls images; several attempts that need the same one wait for one pull."""

    def __init__(self, daemon: Daemon, options: DockerOptions, *, secrets_directory: str) -> None:
        self._daemon, self._options, self._secrets_directory = daemon, options, secrets_directory
        self._locks: dict[str, threading.Lock] = {}

    def pull(self, image: str, *, note: Callable[[str], None], check: Callable[[], None]) -> None:
        """Pull an image, note each step of it, and call ``check`` between, which may raise to give it up.

        Raises Rejected where the registry refuses, and Unavailable where it cannot be asked.
        """
        login = self._login(image)
        with self._locks.setdefault(image, threading.Lock()), self._daemon.asked() as api:
            repository, tag = parse_repository_tag(image)
            try:
                for line in api.pull(repository, tag=tag or "latest", stream=True, decode=True, auth_config=login):
                    check()
                    if "error" in line:
                        raise _refusal(image, str(line["error"]))
                    if "status" in line and not line.get("progressDetail"):
                        note(_step(line))
            except APIError as error:
                raise _refusal(image, explanation(error)) from error

    def _login(self, image: str) -> dict[str, str] | None:
        try:
            registry, _ = resolve_repository_name(parse_repository_tag(image)[0])
        except DockerException as error:
            raise Rejected("image", f"{image!r} is no image's name: {error}") from error
        login = self._options.registries.get(registry)
        if login is None:
            return None
        try:
            password = read_secret(login["password"], directory=self._secrets_directory)
        except LookupError as error:
            raise Rejected("image", f"The password for the registry {registry!r}: {error.args[0]}") from error
        return {"username": login["username"], "password": password}


def _refusal(image: str, text: str) -> Exception:
    if any(part in text.lower() for part in _UNREACHABLE):
        return Unavailable(f"The image {image!r} could not be pulled: {text}")
    return Rejected("image", f"The image {image!r} cannot be pulled: {text}")


def _step(line: Mapping[str, Any]) -> str:
    return ": ".join(str(line[name]) for name in ("id", "status") if line.get(name))
