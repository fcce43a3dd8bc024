"""The example project: its settings, its compose file, its image, and ``make serve``."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from container_manager.executors.docker_variables import docker_daemon
from container_manager.management.commands.container import Command

from .polling import PATIENCE_SECONDS, eventually
from .ports import free_port
from .prerequisites import require

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "example"
GIVEN = {"EXAMPLE_SECRET_KEY": "long and random", "EXAMPLE_DATABASE_PASSWORD": "hidden", "DOCKER_GID": "123"}
SOCKET = "/var/run/docker.sock"
DJANGO = ["python", "-m", "django"]

pytestmark = pytest.mark.without_database


def interpolated(text: str) -> str:
    """Return a text with its variables' values, as compose does: ${NAME:?message} and ${NAME:-default}."""

    def value(found: re.Match[str]) -> str:
        return GIVEN.get(found["name"]) or (found["text"] if found["sign"] == ":-" else pytest.fail(found["text"]))

    return re.sub(r"\$\{(?P<name>\w+)(?P<sign>:[?-])(?P<text>[^}]*)\}", value, text)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolated((EXAMPLE / "compose.yaml").read_text("utf-8")))
    return loaded


def python(code: str, **variables: str) -> str:
    own = {**os.environ, "DJANGO_SETTINGS_MODULE": "example.settings", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.shows("howto/docker.md#start-all-of-it-with-compose")
def test_every_compose_service_has_an_image_and_depends_on_existing_services() -> None:
    described = compose()
    services = described["services"]
    assert set(services) == {"database", "migrate", "web", "worker"}
    for service in services.values():
        assert service["image"]
        for name, wanted in service.get("depends_on", {}).items():
            condition = wanted["condition"]
            assert "healthcheck" in services[name] if condition == "service_healthy" else services[name]["command"]
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source == SOCKET or source in described["volumes"]
    assert (ROOT / "example" / described["x-app"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / described["x-app"]["build"]["dockerfile"]).exists()


@pytest.mark.shows("howto/docker.md#start-all-of-it-with-compose")
def test_only_the_compose_worker_has_the_docker_socket() -> None:
    holders = [name for name, s in compose()["services"].items() if SOCKET in json.dumps(s.get("volumes", ()))]
    assert holders == ["worker"]


def test_every_compose_service_but_the_database_drops_all_capabilities() -> None:
    for name, service in compose()["services"].items():
        if name != "database":
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert service["read_only"] is True


def test_every_command_of_a_compose_service_exists() -> None:
    parser = Command().create_parser("manage.py", "container")
    for service in compose()["services"].values():
        for command in (service.get("command"), service.get("healthcheck", {}).get("test", ["CMD"])[1:]):
            if not command or command[:3] != DJANGO:
                continue
            if command[3] == "container":
                assert parser.parse_args(command[4:]).verb == command[4]
            else:
                assert command[3:] == ["migrate"]


def test_settings_with_the_variables_of_compose_are_postgresql_and_docker() -> None:
    code = """
import django, json
django.setup()
from django.conf import settings
from container_manager.conf import app_settings
from container_manager.checks import check_settings
database = settings.DATABASES["default"]
print(json.dumps([
    [m.msg for m in check_settings(None)], settings.DEBUG, settings.SECRET_KEY, database["ENGINE"], database["HOST"],
    database["PASSWORD"], app_settings().executors["default"]["OPTIONS"],
]))
"""
    problems, debug, key, engine, host, password, options = json.loads(
        python(code, **compose()["services"]["worker"]["environment"], DOCKER_HOST="")
    )
    assert problems == []
    assert not debug
    assert (key, engine, host, password) == (
        GIVEN["EXAMPLE_SECRET_KEY"], "django.db.backends.postgresql", "database", GIVEN["EXAMPLE_DATABASE_PASSWORD"],
    )  # fmt: skip
    assert options == {"base_url": f"unix://{SOCKET}", "images": ["busybox", "python:3.*"]}


def test_settings_without_variables_are_sqlite_and_local_processes() -> None:
    code = """
import example.wsgi
from django.conf import settings
from container_manager.conf import app_settings
print(settings.DEBUG, settings.DATABASES["default"]["ENGINE"], app_settings().executors["default"]["BACKEND"])
"""
    assert python(code).split() == [
        "True", "django.db.backends.sqlite3", "container_manager.executors.process.ProcessExecutor",
    ]  # fmt: skip


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_variables_of_the_docker_client_choose_the_daemon() -> None:
    assert docker_daemon({}) == {"base_url": f"unix://{SOCKET}"}
    assert docker_daemon({"DOCKER_HOST": "ssh://far"}) == {"base_url": "ssh://far"}
    variables = {"DOCKER_HOST": "tcp://far:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certificates"}
    assert docker_daemon(variables) == {
        "base_url": "tcp://far:2376",
        "tls": {"ca": "/certificates/ca.pem", "cert": "/certificates/cert.pem", "key": "/certificates/key.pem"},
    }


def test_the_dockerfile_copies_existing_files_and_runs_as_an_unprivileged_user() -> None:
    lines = (EXAMPLE / "Dockerfile").read_text("utf-8").splitlines()
    copied = [path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    kept = (EXAMPLE / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert {f"!{path}" for path in copied} <= set(kept)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = re.search(r"\.\[([\w,-]+)\]", "\n".join(lines))
    assert asked is not None
    assert set(asked[1].split(",")) <= set(extras)
    assert [line for line in lines if line.startswith("USER ")] == ["USER app"]


def test_compose_accepts_its_file() -> None:
    text, program, docker = (EXAMPLE / "compose.yaml").read_text("utf-8"), ["docker-compose"], shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        program = [docker, "compose"]
    else:
        require("compose (docker's plugin, or Debian's package docker-compose)", shutil.which("docker-compose"))
        # The package is older than this key.
        text = re.sub(r"^name: .+\n", "", text, flags=re.M)
    command = [*program, "--file", "-", "--project-directory", str(EXAMPLE), "config", "--quiet"]
    environment = {**os.environ, **GIVEN}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SERVE = [sys.executable, "-m", "example.serve"]


@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param(SERVE, signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
        pytest.param(SERVE, signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(SERVE, signal.SIGHUP, id="SIGHUP", marks=pytest.mark.slow),
        pytest.param(SERVE, signal.SIGKILL, id="SIGKILL", marks=pytest.mark.slow),
        # As make does, which is killed: the shell goes on to another command, so that it stays the parent.
        pytest.param(["sh", "-c", f"{shlex.join(SERVE)}; :"], signal.SIGKILL, id="SIGKILL of its parent"),
    ],
)
@pytest.mark.shows("howto/dashboard.md#use-the-dashboard")
def test_serve_leaves_no_process_behind_however_it_is_ended(
    command: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    port = free_port()
    own = {**os.environ, "PORT": str(port), "EXAMPLE_DATABASE_FILE": str(tmp_path / "example.sqlite3")}
    log = tmp_path / "log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, cwd=ROOT, env=own, stdout=stream, stderr=stream) as serve,
        ExitStack() as cleanup,
    ):
        # Without it an error here would wait for it to end.
        cleanup.callback(serve.kill)
        # The web server, the feeder, the worker, the worker's warden and a job of several steps.
        eventually(
            lambda: (answers(port) and "sleep" in " ".join(names(started_by(serve)))) or serve.poll() is not None
        )
        assert serve.poll() is None, log.read_text()
        started = started_by(serve)
        serve.send_signal(number)
        serve.wait(timeout=PATIENCE_SECONDS)
    _gone, alive = psutil.wait_procs(started, timeout=PATIENCE_SECONDS)
    assert alive == [], log.read_text()


def names(processes: list[psutil.Process]) -> Iterator[str]:
    for process in processes:
        # Some end at any time: those of short jobs.
        with suppress(psutil.NoSuchProcess):
            yield process.name()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def started_by(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)
