"""Times are right in every zone in which a database can store them; other zones are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import NotSupportedError, connection

from container_manager.statemachine.triggers.time_zone import utc_offset

ROOT = Path(__file__).parents[1]
_PROJECT, _CONNECTION = "CM_TEST_TIME_ZONE", "CM_TEST_CONNECTION_ZONE"
_SETTINGS = "tests.time_zones.settings"


def run(*arguments: str, zone: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a Python module in a project with these time zones."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment | {"DJANGO_SETTINGS_MODULE": _SETTINGS} | zone,
        capture_output=True,
        text=True,
        check=False,
    )


def check(zone: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Check the database of this test, in a project with these time zones."""
    return run("django", "check", "--database", "default", zone=zone | {"CM_TEST_NAME": database_name()})


def database_name() -> str:
    return str(connection.settings_dict["NAME"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "zone",
    [
        pytest.param({_PROJECT: "Asia/Kolkata"}, id="USE_TZ=False in Kolkata"),
        pytest.param({_PROJECT: "Etc/GMT+7"}, id="USE_TZ=False west of UTC"),
        pytest.param({_CONNECTION: "Asia/Kolkata"}, id="connection in Kolkata"),
    ],
)
def test_jobs_are_right_in_a_zone_with_a_fixed_offset(zone: dict[str, str]) -> None:
    scenarios = "tests/time_zones/scenarios.py"
    done = run("pytest", "-q", "-p", "no:cacheprovider", "--create-db", "--ds", _SETTINGS, scenarios, zone=zone)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "zone",
    [
        pytest.param({_PROJECT: "Europe/Berlin"}, id="USE_TZ=False in Berlin"),
        pytest.param({_CONNECTION: "Europe/Berlin"}, id="connection in Berlin", marks=pytest.mark.slow),
    ],
)
def test_a_zone_with_daylight_saving_time_is_refused_unless_times_are_absolute(
    zone: dict[str, str], transactional_db: None
) -> None:
    done = check(zone)
    assert ("statemachine.E040" in done.stderr) is (connection.vendor != "postgresql"), done.stdout + done.stderr
    assert done.returncode == (connection.vendor != "postgresql")


@pytest.mark.parametrize(
    "command", [pytest.param(("statemachine", "triggers"), marks=pytest.mark.slow), ("container", "worker", "--once")]
)
def test_commands_refuse_a_zone_with_daylight_saving_time(command: tuple[str, ...], transactional_db: None) -> None:
    if connection.vendor == "postgresql":
        pytest.skip("PostgreSQL stores absolute times")
    done = run("django", *command, zone={_PROJECT: "Europe/Berlin", "CM_TEST_NAME": database_name()})
    assert done.returncode == 1
    assert "CommandError: Times are stored in Europe/Berlin" in done.stderr


def test_triggers_that_were_installed_for_another_zone_are_reported(transactional_db: None) -> None:
    done = check({_PROJECT: "Asia/Kolkata"})
    assert ("are missing or differ" in done.stderr) is (connection.vendor != "postgresql"), done.stdout + done.stderr


@pytest.mark.without_database
@pytest.mark.parametrize(("zone", "seconds"), [("UTC", 0), ("Asia/Kolkata", 19800), ("Etc/GMT+7", -25200)])
def test_a_zone_with_a_fixed_offset_has_that_offset(zone: str, seconds: int) -> None:
    assert utc_offset(zone) == seconds


@pytest.mark.without_database
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Chicago", "Africa/Casablanca", None])
def test_a_zone_without_a_fixed_offset_is_not_supported(zone: str | None) -> None:
    with pytest.raises(NotSupportedError):
        utc_offset(zone)
