"""The daemon is reached by its socket, by TLS and by ssh; no answer says nothing about attempts."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from container_manager.conf import AppSettings
from container_manager.executors.base import Executor, ExitStatus, LaunchSpec, Unavailable
from container_manager.executors.docker import DockerExecutor
from container_manager.executors.docker.daemon import Daemon as Engine
from container_manager.executors.docker.daemon_answers import Answer, Gone
from container_manager.executors.docker.options import docker_options
from container_manager.executors.docker.view import View
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import ended, new_key, output, text, wait_until

from ..workers import eventually
from . import ssh
from .daemon import Daemon
from .docker_harness import DockerHarness
from .image import IMAGE
from .proxy import proxy


@contextmanager
def executing(base_url: str, **options: Any) -> Iterator[Executor]:
    executor = DockerExecutor(
        docker_options({"base_url": base_url, "images": [IMAGE], **options}),
        install="connections",
        secrets_directory="/run/secrets",
    )
    try:
        yield executor
    finally:
        executor.close()


def printed(executor: Executor) -> bytes:
    spec = LaunchSpec(key=new_key(), argv=("echo", "ran"), job=JobSpec(image=IMAGE))
    handle = executor.submit(spec)
    chunks = output(executor, handle)
    assert ended(executor, spec.key).succeeded
    executor.remove(handle)
    return text(chunks)


def tls(daemon: Daemon) -> dict[str, str]:
    assert daemon.certificates is not None
    return {name: str(getattr(daemon.certificates, name)) for name in ("ca", "cert", "key")}


def test_jobs_run_on_a_daemon_reached_by_its_socket(docker_url: str) -> None:
    with executing(docker_url) as executor:
        assert printed(executor) == b"ran\n"
        health = executor.check()
        assert health.ok
        assert health.message.startswith("Docker ")
        assert (health.cpu_count or 0) > 0
        assert (health.memory_bytes or 0) > 1 << 20


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_jobs_run_on_a_daemon_reached_by_tls(tls_daemon: Daemon) -> None:
    with executing(tls_daemon.tls_url, tls=tls(tls_daemon)) as executor:
        assert printed(executor) == b"ran\n"


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_a_daemon_with_a_certificate_of_another_authority_is_not_trusted(tls_daemon: Daemon, tmp_path: Path) -> None:
    from .certificates import Certificates

    others = Certificates.make(tmp_path)
    with executing(tls_daemon.tls_url, tls={**tls(tls_daemon), "ca": str(others.ca)}) as executor:
        health = executor.check()
        assert not health.ok
        assert "CERTIFICATE_VERIFY_FAILED" in health.message


def test_authorities_and_proxies_of_the_environment_are_ignored(
    tls_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with executing(tls_daemon.tls_url, tls=tls(tls_daemon)) as executor:
        assert executor.check().ok


def test_missing_tls_files_are_named(tls_daemon: Daemon) -> None:
    with executing(tls_daemon.tls_url, tls={**tls(tls_daemon), "key": "/no/such/key.pem"}) as executor:
        health = executor.check()
    assert not health.ok
    assert "cert" in health.message.lower()


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_jobs_run_on_a_daemon_reached_by_ssh(ssh_daemon: ssh.Server) -> None:
    with executing(ssh_daemon.url) as executor:
        assert printed(executor) == b"ran\n"


@pytest.mark.usefixtures("docker_url")
def test_a_daemon_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with executing(f"unix://{tmp_path}/no.sock") as executor:
        health = executor.check()
        assert not health.ok
        assert "no.sock does not answer" in health.message
        with pytest.raises(Unavailable, match=r"no\.sock does not answer"):
            executor.submit(LaunchSpec(key=new_key(), argv=("true",), job=JobSpec(image=IMAGE)))
        with pytest.raises(Unavailable):
            executor.remove("cm-nothing")
        with pytest.raises(Unavailable):
            wait_until(executor, lambda: executor.observe() and False)


@pytest.mark.usefixtures("docker_url")
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_a_daemon_that_never_answers_is_given_up_and_blocks_no_other(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(16)
        with executing(f"unix://{path}", timeout_seconds=2.0) as executor:
            assert not executor.check().ok
        # Who waited for this one would do so for longer than a test may take.
        with executing(f"unix://{path}", timeout_seconds=3600.0) as executor:
            # What the worker's loop asks never waits for the daemon.
            executor.observe()
            executor.logs("cm-some-1", "", 1000)
            executor.stop("cm-some-1", 1.0)
            silent.close()


@pytest.mark.parametrize("missing", ["install", "paramiko"])
def test_unusable_connection_settings_are_reported_before_the_daemon_is_contacted(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "install":
        with pytest.raises(ImproperlyConfigured, match=r"\['INSTALL'\] must name this installation"):
            DockerExecutor.from_settings({}, AppSettings())
        return
    monkeypatch.setattr("container_manager.executors.docker.docker_executor.find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match="docker-ssh"):
        DockerExecutor.from_settings({"base_url": "ssh://there"}, AppSettings(install="mine"))


def test_a_malformed_answer_of_the_daemon_is_dropped_and_the_next_one_counts(
    docker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = DockerHarness(docker_url, tmp_path)
    meanings: dict[str, ExitStatus] = {}
    monkeypatch.setattr(
        "container_manager.executors.docker.view.exit_status", lambda *args, **kwargs: meanings["of this"]
    )
    view = View(Engine(docker_options(harness.options)), install=harness.install, changed=lambda: None)
    executor = harness.executor()
    executor.submit(harness.spec("true"))

    def is_lost() -> bool:
        try:
            view.observe()
        except Unavailable:
            return True
        return False

    try:
        wait_until(executor, is_lost)
        meanings["of this"] = ExitStatus(code=0)
        wait_until(executor, lambda: not is_lost() and any(seen.exit for seen in view.observe().attempts))
    finally:
        view.close()
        executor.close()
        harness.clean_up()


def test_a_container_list_requested_during_another_is_fetched_afterwards(
    harness: DockerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended after that list, and before the events began, would not be seen until the next one is due."""
    monkeypatch.setattr("container_manager.executors.docker.view._LIST_SECONDS", 3600.0)
    with proxy(harness.url, tmp_path) as way:

        class ListsFirst(Engine):
            """Events begin while the first list is being made, whichever thread the machine lets go first."""

            def stream(self, *arguments: Any, **options: Any) -> AbstractContextManager[Answer]:
                way.await_held()
                return super().stream(*arguments, **options)

        way.hold("GET /[^ ]*/containers/json", "answer")
        options = docker_options({**harness.options, "base_url": way.url})
        view = View(ListsFirst(options), install=harness.install, changed=lambda: None)
        try:
            view.observe()
            eventually(lambda: view._answer is not None)
            released = time.monotonic()
            way.release()
            eventually(lambda: view.observe().as_of > released)
        finally:
            view.close()


def test_calls_about_different_containers_share_a_connection(docker_url: str) -> None:
    engine = Engine(docker_options({"base_url": docker_url}))
    for _ in range(3):
        with pytest.raises(Gone), engine.client() as api:
            api.inspect_container(new_key())
    with engine.client() as api:
        pool = api.get_adapter(api.base_url).get_connection("any")
    assert len([connection for connection in pool.pool.queue if connection]) == 1
