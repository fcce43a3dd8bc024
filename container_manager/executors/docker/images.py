"""Pull images through the daemon, with the registries' logins, and classify its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docker.auth import encode_header, get_config_header, resolve_repository_name
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from ...jobs.secret_references import REGISTRY_FILES, REGISTRY_VARIABLES, read_secret
from ..base import DependencyUnavailable, Rejected, Unavailable
from .daemon import Answer, Daemon, Failed, Gone
from .options import DockerOptions

# Parts of messages that mean a registry cannot be reached now. The daemon uses the same codes where one refuses.
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
    """Pulls images. Attempts that need the same one wait for one pull."""

    def __init__(self, daemon: Daemon, options: DockerOptions, *, secrets_directory: str) -> None:
        self._daemon, self._options, self._secrets_directory = daemon, options, secrets_directory
        self._locks: dict[str, threading.Lock] = {}
        self._pulls: dict[str, Answer] = {}

    def pull(
        self, image: str, key: str, *, note: Callable[[str], None], check: Callable[[], None], platform: str = ""
    ) -> None:
        """Pull an image for an attempt, and note each step; ``platform``: instead of the daemon's own.

        ``check`` raises where the attempt is not wanted any more; it is called before the pull, and where the pull was
        interrupted. Raises Rejected where the registry refuses, and DependencyUnavailable where it cannot be reached.
        """
        registry, repository, tag = _parts(image)
        headers = self._login(registry)
        parameters = {"fromImage": repository, "tag": tag, **({"platform": platform} if platform else {})}
        with self._locks.setdefault(image, threading.Lock()):
            check()
            try:
                with self._daemon.stream("/images/create", parameters, method="POST", headers=headers) as answer:
                    self._pulls[key] = answer
                    check()
                    for line in answer.lines():
                        if "error" in line:
                            raise Failed(str(line["error"]))
                        if "status" in line and not line.get("progressDetail"):
                            note(_step(line))
            except (Gone, Failed) as error:
                raise _refusal(image, str(error)) from error
            except Unavailable:
                # It may have been interrupted because the attempt is not wanted any more.
                check()
                raise
            finally:
                self._pulls.pop(key, None)

    def interrupt(self, key: str | None = None) -> None:
        """Interrupt the pull for an attempt, or all."""
        for stream in [*self._pulls.values()] if key is None else filter(None, [self._pulls.get(key)]):
            stream.interrupt()

    def _login(self, registry: str) -> dict[str, str]:
        login = self._options.registries.get(registry)
        if login is None:
            with self._daemon.client() as api:
                # The login that `docker login` has stored for the worker's user.
                header = get_config_header(api, registry)
            return {"X-Registry-Auth": header.decode()} if header else {}
        try:
            directory = Path(self._secrets_directory) / REGISTRY_FILES
            password = read_secret(login["password"], directory=directory, variables=REGISTRY_VARIABLES)
        except LookupError as error:
            raise Rejected("image", f"The password for the registry {registry!r}: {error.args[0]}") from error
        return {"X-Registry-Auth": encode_header({"username": login["username"], "password": password}).decode()}


def _parts(image: str) -> tuple[str, str, str]:
    """Return an image's registry, its name with it, and its tag or digest."""
    repository, tag = parse_repository_tag(image)
    try:
        registry, _ = resolve_repository_name(repository)
    except DockerException as error:
        raise Rejected("image", f"{image!r} is no image's name: {error}") from error
    return registry, repository, tag or "latest"


def _refusal(image: str, text: str) -> Exception:
    if any(part in text.lower() for part in _UNREACHABLE):
        return DependencyUnavailable(f"The image {image!r} could not be pulled: {text}")
    return Rejected("image", f"The image {image!r} cannot be pulled: {text}")


def _step(line: Mapping[str, Any]) -> str:
    return ": ".join(str(line[name]) for name in ("id", "status") if line.get(name))
