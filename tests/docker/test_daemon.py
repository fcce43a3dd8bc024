"""The test daemons themselves, on which the tests of the executor depend."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..polling import PATIENCE_SECONDS, eventually
from . import daemon_leftovers
from .daemon import Daemon
from .image import ENTRYPOINT_IMAGE, IMAGE
from .registry import Registry
from .ssh import Server

if TYPE_CHECKING:
    import docker

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def client(url: str, **options: Any) -> Iterator[docker.APIClient]:
    import docker

    client = docker.APIClient(base_url=url, timeout=60, version="1.41", **options)
    # Else REQUESTS_CA_BUNDLE and the proxies of the environment come before what the client was told.
    client.trust_env = False
    try:
        yield client
    finally:
        client.close()


def run(client: docker.APIClient, script: str, image: str = IMAGE) -> str:
    container = str(client.create_container(image, ["sh", "-c", script])["Id"])
    client.start(container)
    return container


def state(client: docker.APIClient, container: str) -> tuple[str, int]:
    state = client.inspect_container(container)["State"]
    return state["Status"], state["ExitCode"]


def test_the_test_daemon_runs_a_container(docker_url: str) -> None:
    with client(docker_url) as api:
        container = run(api, "id -u; echo $PATH; stat -c %a /tmp; exit 3")
        assert api.wait(container)["StatusCode"] == 3
        assert api.logs(container) == b"0\n/usr/local/bin:/usr/bin:/bin\n1777\n"
        api.remove_container(container)


def test_the_test_daemon_runs_an_image_with_an_entrypoint(docker_url: str) -> None:
    with client(docker_url) as api:
        container = api.create_container(ENTRYPOINT_IMAGE)["Id"]
        api.start(container)
        api.wait(container)
        assert api.logs(container) == b"entrypoint command\n"
        api.remove_container(container)


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_an_exit_code_outlives_the_daemon(own_daemon: Daemon, crash: bool) -> None:
    with client(own_daemon.url) as api:
        container = run(api, "exit 7")
        api.wait(container)
        # The daemon answers that before it has stored the end; it describes a container only between two changes.
        assert state(api, container) == ("exited", 7)
        (own_daemon.kill if crash else own_daemon.stop)()
        assert not own_daemon.answers()
        own_daemon.start()
        assert state(api, container) == ("exited", 7)


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_a_stopped_daemon_stops_its_containers(own_daemon: Daemon) -> None:
    with client(own_daemon.url) as api:
        container = run(api, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
        # Before that it would not hear of it.
        eventually(lambda: api.logs(container) == b"ready\n")
        own_daemon.stop()
        assert own_daemon.container_processes() == set()
        # A shim that was told to end may do so after its daemon.
        eventually(lambda: own_daemon.processes() == set())
        own_daemon.start()
        assert state(api, container) == ("exited", 5)


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_with_live_restore_a_container_outlives_its_daemon(new_daemon: Callable[..., Daemon], crash: bool) -> None:
    engine = new_daemon(live_restore=True)
    with client(engine.url) as api:
        container = run(api, "trap 'exit 5' TERM; echo started; while :; do sleep 0.05; done")
        eventually(lambda: api.logs(container) == b"started\n")
        before = api.inspect_container(container)["State"]
        (engine.kill if crash else engine.stop)()
        assert before["Pid"] in engine.processes()
        engine.start()
        after = api.inspect_container(container)["State"]
        assert (after["Status"], after["Pid"], after["StartedAt"]) == ("running", before["Pid"], before["StartedAt"])
        api.stop(container)
        assert state(api, container) == ("exited", 5)


def test_the_daemon_accepts_a_client_with_a_certificate(tls_daemon: Daemon) -> None:
    from docker.tls import TLSConfig
    from requests.exceptions import ConnectionError  # noqa: A004  # the builtin is another

    files = tls_daemon.certificates
    assert files is not None
    tls = TLSConfig(client_cert=(str(files.cert), str(files.key)), ca_cert=str(files.ca), verify=True)
    with client(tls_daemon.tls_url, tls=tls) as api:
        assert api.ping()
    anonymous = TLSConfig(ca_cert=str(files.ca), verify=True)
    with pytest.raises(ConnectionError), client(tls_daemon.tls_url, tls=anonymous) as api:
        api.ping()


def test_a_registry_accepts_a_user_with_the_right_password(registry: Registry, own_daemon: Daemon) -> None:
    from docker.errors import APIError

    repository, login = f"{registry.address}/team/job", {"username": registry.user, "password": registry.password}
    with client(own_daemon.url) as api:
        for wrong in ({}, {**login, "password": "wrong"}):
            with pytest.raises(APIError, match=r"no basic auth credentials|unauthorized"):
                api.pull(repository, "1", auth_config=wrong)
        assert "Downloaded newer image" in api.pull(repository, "1", auth_config=login)
        container = run(api, "exit 2", image=f"{repository}:1")
        assert api.wait(container)["StatusCode"] == 2


def test_a_daemon_is_reached_through_ssh(ssh_daemon: Server) -> None:
    with client(ssh_daemon.url, use_ssh_client=True) as api:
        container = run(api, "echo out; exit 2")
        assert api.wait(container)["StatusCode"] == 2
        assert api.logs(container) == b"out\n"
        ssh_daemon.cut()
        assert state(api, container) == ("exited", 2)


@pytest.mark.parametrize("crash", [False, True], ids=["running", "killed"])
def test_closing_a_test_daemon_leaves_nothing(crash: bool, new_daemon: Callable[..., Daemon]) -> None:
    first, second = (new_daemon(live_restore=True) for _ in range(2))
    for engine in (first, second):
        with client(engine.url) as api:
            for _ in range(2):
                stubborn = run(api, "trap '' TERM; while :; do sleep 0.05; done")
            api.pause(stubborn)
    sockets = daemon_leftovers.shim_sockets(first.folder / "exec")
    assert len(sockets) == 2
    assert all(path.is_socket() for path in sockets)
    if crash:
        first.kill()
    first.close()
    assert first.processes() == set()
    assert not first.folder.exists()
    assert daemon_leftovers.mounts(first.folder) == []
    assert daemon_leftovers.cgroups(first.folder.name) == []
    assert not any(path.exists() for path in sockets)
    first.close()
    assert second.answers()
    assert len(daemon_leftovers.mounts(second.folder)) > 0


def test_sigterm_ends_the_test_daemon_and_its_command(docker_url: str) -> None:
    command = [sys.executable, "-m", "tests.docker", "--", "sh", "-c", "echo $CM_TEST_DOCKER; exec sleep 600"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        folder = Path(url.removeprefix("unix://")).parent
        assert url != docker_url
        assert folder.is_dir()
        # The second one comes while it clears away.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert not folder.exists()
    assert daemon_leftovers.mounts(folder) == []
