"""The logins to registries, read again at each pull: the options' own, else what `docker login` has stored."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.auth import INDEX_URL, convert_to_hostname, encode_header, resolve_index_name

from ...jobs.secret_references import REGISTRY_FILES, REGISTRY_VARIABLES, read_secret
from .options import DockerOptions

# A helper may ask a server of its own; one that asks a person would wait for ever.
_HELPER_SECONDS = 30.0
_MESSAGE_CHARACTERS = 200
# By these words a helper says that it has no login: then docker pulls without one.
_NOTHING_STORED = "credentials not found"
# A helper's name of the user where its secret is a token.
_TOKEN_USER = "<token>"  # noqa: S105  # a name


class LoginProblem(Exception):
    """A login that there should be cannot be read. The text says why, and names the helper if there is one."""


class Logins:
    """Finds the login to a registry."""

    def __init__(self, options: DockerOptions, *, secrets_directory: str) -> None:
        self._options, self._secrets_directory = options, secrets_directory

    def headers(self, registry: str) -> dict[str, str]:
        """Return what tells the daemon the login; nothing where there is none. Raises LoginProblem."""
        login = self._configured(registry) if registry in self._options.registries else _stored(registry)
        return {"X-Registry-Auth": encode_header(login).decode()} if login else {}

    def _configured(self, registry: str) -> dict[str, str]:
        login = self._options.registries[registry]
        try:
            directory = Path(self._secrets_directory) / REGISTRY_FILES
            password = read_secret(login["password"], directory=directory, variables=REGISTRY_VARIABLES)
        except LookupError as error:
            raise LoginProblem(f"The password for the registry {registry!r}: {error.args[0]}") from error
        return {"username": login["username"], "password": password}


def _stored(registry: str) -> dict[str, str] | None:
    """Return what `docker login` has stored for the worker's user, as docker's own command finds it."""
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    configuration = _configuration(path)
    # The Docker Hub's logins are kept under an address of old.
    server = INDEX_URL if registry == resolve_index_name("docker.io") else registry
    helper = _mapping(path, configuration, "credHelpers").get(server) or configuration.get("credsStore")
    if helper:
        return _from_helper(str(helper), server)
    entries = _mapping(path, configuration, "auths")
    hosts = {convert_to_hostname(address): entry for address, entry in entries.items()}
    entry = entries.get(server) or hosts.get(convert_to_hostname(server))
    return _from_entry(path, registry, entry) if entry else None


def _configuration(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LoginProblem(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise LoginProblem(f"{path} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise LoginProblem(f"{path} has no JSON object.")
    return found


def _mapping(path: Path, configuration: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = configuration.get(name) or {}
    if not isinstance(found, dict):
        raise LoginProblem(f"{path}: {name!r} is no JSON object.")
    return found


def _from_entry(path: Path, registry: str, entry: Any) -> dict[str, str] | None:
    if not isinstance(entry, dict):
        raise LoginProblem(f"{path}: the entry for the registry {registry!r} is no JSON object.")
    if token := entry.get("identitytoken"):
        return {"identitytoken": str(token), "serveraddress": registry}
    if not (auth := entry.get("auth")):
        user, password = entry.get("username"), entry.get("password")
        return _login(registry, str(user), str(password)) if user and password else None
    user, colon, secret = _decoded(str(auth)).partition(":")
    if not colon:
        raise LoginProblem(
            f"{path}: the 'auth' for the registry {registry!r} is not the base64 of user:password. Log in again."
        )
    return _login(registry, user, secret.rstrip("\0"))


def _decoded(text: str) -> str:
    """Return what base64 stands for; "" for what is none."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _from_helper(helper: str, server: str) -> dict[str, str] | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(  # noqa: S603  # what the worker's user has configured, as docker's own command runs it
            [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise LoginProblem(f"The credential helper {program} is not installed, or not in the worker's PATH.") from error
    except (OSError, ValueError) as error:
        raise LoginProblem(f"The credential helper {program} could not be run: {error}.") from error
    except subprocess.TimeoutExpired as error:
        raise LoginProblem(f"The credential helper {program} has not answered in {_HELPER_SECONDS:g} s.") from error
    if done.returncode:
        # Helpers say what is wrong on stdout.
        said = (done.stdout.strip() or done.stderr.strip()).decode(errors="replace")
        if _NOTHING_STORED in said:
            return None
        raise LoginProblem(
            f"The credential helper {program} failed with exit code {done.returncode}: {said[:_MESSAGE_CHARACTERS]}"
        )
    try:
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError):
        # From none: the cause has what it printed.
        raise LoginProblem(f"The credential helper {program} has printed no login.") from None
    if user == _TOKEN_USER:
        return {"identitytoken": secret, "serveraddress": server}
    return _login(server, user, secret)


def _login(server: str, user: str, password: str) -> dict[str, str]:
    return {"username": user, "password": password, "serveraddress": server}
