"""Logins are read at each pull as docker's own command reads them, and what is wrong with them is said."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Rejected
from container_manager.executors.docker.logins import LoginProblem, Logins
from container_manager.executors.docker.options import docker_options
from container_manager.testing.conformance import output, text

from . import faulty_registry
from .docker_harness import DockerHarness, launch

HOST = "registry.example.com"
PASSWORD = "correct-horse"
Helper = Callable[[str, str], None]
pytestmark = pytest.mark.without_database


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the worker's user's docker configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Write a credential helper, as the body of a shell script."""

    def write(name: str, script: str) -> None:
        path = tmp_path / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return write


def write(folder: Path, configuration: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(configuration))


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def logins(**options: Any) -> Logins:
    return Logins(docker_options(options), secrets_directory="/nowhere")


def login(registry: str = HOST, **options: Any) -> dict[str, str] | None:
    headers = logins(**options).headers(registry)
    if not headers:
        return None
    found: dict[str, str] = json.loads(base64.urlsafe_b64decode(headers["X-Registry-Auth"]))
    return found


def problem(registry: str = HOST, **options: Any) -> str:
    with pytest.raises(LoginProblem) as raised:
        logins(**options).headers(registry)
    return str(raised.value)


def test_a_renewed_registry_login_is_used_at_the_next_pull(folder: Path) -> None:
    found = logins()
    assert found.headers(HOST) == {}
    write(folder, {"auths": {HOST: auth("user", PASSWORD)}})
    first = found.headers(HOST)
    assert login() == {"username": "user", "password": PASSWORD, "serveraddress": HOST}
    write(folder, {"auths": {HOST: auth("user", "renewed")}})
    assert found.headers(HOST) != first


@pytest.mark.parametrize("address", [HOST, f"https://{HOST}", f"https://{HOST}/v1/"])
def test_a_registry_login_is_found_whatever_its_address_has_beside_the_host(folder: Path, address: str) -> None:
    write(folder, {"auths": {address: auth("user", "a:b")}})
    found = login()
    assert found is not None
    assert found["password"] == "a:b"
    assert login("other.example.com") is None


def test_the_login_of_docker_hub_is_found_under_its_old_address(folder: Path) -> None:
    write(folder, {"auths": {"https://index.docker.io/v1/": auth("user", PASSWORD)}})
    found = login("docker.io")
    assert found is not None
    assert found["username"] == "user"


def test_a_credential_helpers_login_or_token_is_used_and_a_registrys_own_helper_comes_first(
    folder: Path, helper: Helper
) -> None:
    helper("all", f"""echo '{{"Username": "user", "Secret": "{PASSWORD}"}}'""")
    helper("own", """read -r server; echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"for $server\\"}" """)
    write(folder, {"credsStore": "all", "credHelpers": {"own.example.com": "own"}})
    assert login() == {"username": "user", "password": PASSWORD, "serveraddress": HOST}
    assert login("own.example.com") == {"identitytoken": "for own.example.com", "serveraddress": "own.example.com"}


def test_a_credential_helper_without_an_entry_means_no_login(folder: Path, helper: Helper) -> None:
    helper("all", "echo 'credentials not found in native keychain'; exit 1")
    write(folder, {"credsStore": "all"})
    assert login() is None


def test_a_missing_or_failing_credential_helper_is_named(folder: Path, helper: Helper) -> None:
    write(folder, {"credsStore": "absent"})
    assert problem() == "The credential helper docker-credential-absent is not installed, or not in the worker's PATH."
    helper("absent", "echo 'the keychain is locked'; exit 3")
    assert problem() == "The credential helper docker-credential-absent failed with exit code 3: the keychain is locked"
    helper("absent", f"echo {PASSWORD}")
    assert problem() == "The credential helper docker-credential-absent has printed no login."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "has no JSON object"),
        ('{"auths": [1]}', "'auths' is no JSON object"),
        (f'{{"auths": {{"{HOST}": "x"}}}}', f"the entry for the registry '{HOST}' is no JSON object"),
        (f'{{"auths": {{"{HOST}": {{"auth": "{PASSWORD}"}}}}}}', "is not the base64 of user:password"),
        (f'{{"auths": {{"{HOST}": {{"auth": "bm8="}}}}}}', "is not the base64 of user:password"),
    ],
)
def test_a_broken_docker_configuration_is_reported_and_quotes_no_login(folder: Path, content: str, said: str) -> None:
    (folder / "config.json").write_text(content)
    assert said in problem()
    assert str(folder / "config.json") in problem()
    assert PASSWORD not in problem()


def test_a_broken_docker_configuration_does_not_affect_a_registry_of_the_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.json").write_text("{")
    monkeypatch.setenv("CM_REGISTRY_OWN", PASSWORD)
    registries = {HOST: {"username": "user", "password": "env:CM_REGISTRY_OWN"}}
    assert login(registries=registries) == {"username": "user", "password": PASSWORD}


@pytest.fixture
def odd() -> Iterator[faulty_registry.OddRegistry]:
    with faulty_registry.running() as registry:
        yield registry


@pytest.fixture
def harness(docker_url: str, tmp_path: Path, odd: faulty_registry.OddRegistry) -> Iterator[DockerHarness]:
    harness = DockerHarness(docker_url, tmp_path, images=["*"])
    yield harness
    harness.clean_up()


@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_broken_credential_helper_stops_no_pull_that_needs_no_login(
    harness: DockerHarness, odd: faulty_registry.OddRegistry, folder: Path
) -> None:
    write(folder, {"credsStore": "absent"})
    executor = harness.executor()
    spec = harness.spec("echo ran", image=odd.add("team/open:1"))
    chunks = output(executor, launch(executor, spec))
    assert text(chunks) == b"ran\n"
    assert "docker-credential-absent is not installed" in text(chunks, "system").decode()
    executor.close()


@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_pull_without_its_login_says_why_and_works_once_the_login_is_repaired(
    harness: DockerHarness, odd: faulty_registry.OddRegistry, folder: Path
) -> None:
    image, odd.login = odd.add("team/closed:1"), ("user", PASSWORD)
    write(folder, {"credHelpers": {odd.address: "absent"}})
    executor = harness.executor(pull_retry_seconds=0.1)
    with pytest.raises(Rejected, match="docker-credential-absent is not installed") as refused:
        launch(executor, harness.spec("true", image=image))
    # It is not the job's fault.
    assert refused.value.reason == "unavailable"
    write(folder, {"auths": {odd.address: auth("user", PASSWORD)}})
    assert text(output(executor, launch(executor, harness.spec("echo ran", image=image)))) == b"ran\n"
    executor.close()
