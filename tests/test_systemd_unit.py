"""The unit file that comes with the package: systemd accepts it, and a service that is stopped lets its jobs end."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .polling import PATIENCE_SECONDS, eventually

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "container_manager/worker/container-worker.service"
_SETTINGS = """
from pathlib import Path
from container_manager.conf import sqlite_database
SECRET_KEY = "only for tests"
INSTALLED_APPS = ["container_manager"]
DATABASES = {"default": sqlite_database(Path(__file__).parent / "jobs.sqlite3")}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
_MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "project_settings"
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "manage.py").write_text(_MANAGE)
    (tmp_path / "project_settings.py").write_text(_SETTINGS)
    return tmp_path


@pytest.fixture
def unit(project: Path) -> configparser.ConfigParser:
    """Return the unit with this project's folder, interpreter and user."""
    text = UNIT.read_text().replace("/srv/project/.venv/bin/python", sys.executable)
    text = text.replace("/srv/project", str(project)).replace("User=jobs", "User=root")
    (project / UNIT.name).write_text(text)
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    parser.read_string(text)
    return parser


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CM_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


def manage(folder: Path, *words: str) -> str:
    command = [sys.executable, "manage.py", *words]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.without_database
def test_systemd_accepts_the_unit_file(project: Path, unit: configparser.ConfigParser) -> None:
    assert set(unit) == {"DEFAULT", "Unit", "Service", "Install"}
    if program := shutil.which("systemd-analyze"):
        done = subprocess.run([program, "verify", project / UNIT.name], capture_output=True, text=True, check=False)
        assert UNIT.name not in done.stderr
        assert done.returncode == 0, done.stderr


@pytest.mark.without_database
@pytest.mark.shows("howto/worker.md#run-workers-under-systemd")
def test_a_systemd_service_that_is_stopped_lets_its_jobs_end(project: Path, unit: configparser.ConfigParser) -> None:
    go, begun = project / "go", project / "begun"
    os.mkfifo(go)
    manage(project, "migrate", "--verbosity", "0")
    manage(project, "container", "submit", "--", "sh", "-c", f"echo > {begun}; read word < {go}; exit 0")
    service = unit["Service"]
    assert service["WorkingDirectory"] == str(project)
    with subprocess.Popen(shlex.split(service["ExecStart"]), cwd=project, env=environment()) as worker:
        eventually(begun.exists)
        # With any other KillMode systemd would signal the job as well.
        assert service["KillMode"] == "mixed"
        worker.send_signal(signal.SIGTERM)
        go.write_text("\n")
        assert worker.wait(PATIENCE_SECONDS) == 0
    assert "completed" in manage(project, "container", "ps", "--all")
