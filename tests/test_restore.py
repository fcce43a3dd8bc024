"""Dump and restore by the databases' own tools: every row comes back as it was, once, and the triggers with it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction

from container_manager.models import ContainerJob, JobTransition
from container_manager.statemachine import restoring
from container_manager.statemachine.checks import check_triggers

from .initial_states.models import Crate
from .jobs import STATUSES, job_in
from .prerequisites import require

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])
ALIAS = "other"


def program(name: str) -> str:
    """Return a client program, that of the server's own version if the server says where it is."""
    folders = os.environ.get("CM_TEST_PROGRAMS"), os.environ.get("PATH")
    found = shutil.which(name, path=os.pathsep.join(filter(None, folders)))
    require(f"The program {name}", found)
    assert found is not None
    return found


def pipe(dump: list[str], restore: list[str]) -> None:
    """Run a dump into a restore; both must end well."""
    with subprocess.Popen(dump, stdout=subprocess.PIPE) as source:
        subprocess.run(restore, stdin=source.stdout, stdout=subprocess.DEVNULL, check=True)
    assert source.returncode == 0


def name_of(alias: str) -> str:
    return str(connections[alias].settings_dict["NAME"])


def by_iterdump() -> None:
    with sqlite3.connect(name_of("default")) as source, sqlite3.connect(name_of(ALIAS)) as target:
        target.executescript("\n".join(source.iterdump()))
    source.close()
    target.close()


def by_sqlite_program() -> None:
    client = program("sqlite3")
    pipe([client, name_of("default"), ".dump"], [client, "-bail", name_of(ALIAS)])


def by_sqlite_backup() -> None:
    with sqlite3.connect(name_of("default")) as source, sqlite3.connect(name_of(ALIAS)) as target:
        source.backup(target)
    source.close()
    target.close()


def postgresql(*options: str) -> None:
    settings = connection.settings_dict
    server = ["--host", str(settings["HOST"]), "--username", settings["USER"]]
    dump = [program("pg_dump"), *server, "--dbname", name_of("default"), *options]
    pipe(dump, [program("psql"), *server, "--dbname", name_of(ALIAS), "--quiet", "--set", "ON_ERROR_STOP=1"])


def by_pg_dump() -> None:
    postgresql()


def by_pg_dump_inserts() -> None:
    postgresql("--inserts", "--no-comments", "--no-owner")


def by_pg_dump_of_data() -> None:
    postgresql("--schema-only")
    postgresql("--data-only")


def by_mariadb_dump() -> None:
    server = ["--socket", connection.settings_dict["OPTIONS"]["unix_socket"], "--user", "root"]
    pipe([program("mariadb-dump"), *server, name_of("default")], [program("mariadb"), *server, name_of(ALIAS)])


def by_mariadb_dump_of_data() -> None:
    server = ["--socket", connection.settings_dict["OPTIONS"]["unix_socket"], "--user", "root"]
    restore = [program("mariadb"), *server, name_of(ALIAS)]
    pipe([program("mariadb-dump"), *server, "--no-data", name_of("default")], restore)
    pipe([program("mariadb-dump"), *server, "--no-create-info", "--skip-triggers", name_of("default")], restore)


WAYS: dict[str, list[Callable[[], None]]] = {
    "sqlite": [by_iterdump, by_sqlite_program, by_sqlite_backup],
    "postgresql": [by_pg_dump, by_pg_dump_inserts, by_pg_dump_of_data],
    "mysql": [by_mariadb_dump, by_mariadb_dump_of_data],
}


def administer(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, None)


@pytest.fixture
def restored(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """Give an empty database, under the alias that otherwise stands for the second one."""
    name = str(tmp_path / "restored.sqlite3") if connection.vendor == "sqlite" else f"{name_of('default')}_restored"
    if connection.vendor != "sqlite":
        administer(f"CREATE DATABASE {name}" + (" CHARACTER SET utf8mb4" if connection.vendor == "mysql" else ""))
    other = connections[ALIAS]
    other.close()
    usual, other.settings_dict["NAME"] = other.settings_dict["NAME"], name
    yield ALIAS
    other.close()
    other.settings_dict["NAME"] = usual
    if connection.vendor != "sqlite":
        administer(f"DROP DATABASE {name}")


def populate() -> None:
    for status in STATUSES:
        job_in(status, name=f'it\'s {status} / "näme" \\ %s', environment={"A": "'"})
    job = job_in("pending")
    job.mark_as_queued(actor="alice", reason="a 'reason' with \"quotes\" and a \\")
    job.mark_as_running()
    job.mark_as_failed(should_retry=True)
    ContainerJob.objects.filter(pk=job.pk).update(status="cancelled")


def rows(alias: str) -> list[Any]:
    return [list(model.objects.using(alias).order_by("pk").values()) for model in (ContainerJob, JobTransition)]


@pytest.mark.parametrize("way", WAYS[connection.vendor])
def test_a_dump_and_restore_keeps_every_row_and_the_triggers(way: Callable[[], None], restored: str) -> None:
    populate()
    way()
    assert rows(restored) == rows("default")
    assert len(rows(restored)[1]) == 5
    assert check_triggers(None, databases=[restored]) == []
    jobs = ContainerJob.objects.using(restored)
    for status in ("completed", "cancelled"):
        with pytest.raises(IntegrityError, match=f"Invalid transition from {status}"), transaction.atomic(restored):
            jobs.filter(status=status).update(status="pending")
    assert jobs.filter(status="queued").update(status="cancelled", queued_at=None) == 1
    job = jobs.get(status="pending")
    job.mark_as_cancelled(actor="bob")
    last = JobTransition.objects.using(restored).order_by("-pk")[:2]
    assert [(entry.to_status, entry.actor) for entry in last] == [("cancelled", "bob"), ("cancelled", "")]
    assert len(rows(restored)[1]) == 7


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only pg_dump has --disable-triggers.")
def test_triggers_reenabled_by_pg_restore_are_reported_by_the_check(restored: str) -> None:
    """--disable-triggers enables them again in the plain way, which replication may pass by."""
    populate()
    postgresql("--schema-only")
    postgresql("--data-only", "--disable-triggers")
    assert rows(restored) == rows("default")
    assert {message.id for message in check_triggers(None, databases=[restored])} == {"statemachine.W003"}
    with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic(restored):
        ContainerJob.objects.using(restored).filter(status="completed").update(status="pending")
    call_command("container", "triggers", "--install", "--database", restored, stdout=StringIO())
    assert check_triggers(None, databases=[restored]) == []


@pytest.mark.skipif(connection.vendor != "mysql", reason="Only mariadb-dump has --skip-triggers.")
def test_a_restore_without_triggers_is_reported_and_repaired(restored: str) -> None:
    populate()
    server = ["--socket", connection.settings_dict["OPTIONS"]["unix_socket"], "--user", "root"]
    dump = [program("mariadb-dump"), *server, "--skip-triggers", name_of("default")]
    pipe(dump, [program("mariadb"), *server, name_of(ALIAS)])
    assert {message.id for message in check_triggers(None, databases=[restored])} == {"statemachine.W003"}
    call_command("container", "triggers", "--install", "--database", restored, stdout=StringIO())
    assert check_triggers(None, databases=[restored]) == []
    assert rows(restored) == rows("default")


def populate_crates() -> None:
    with restoring():
        Crate.objects.create(status="delivered")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="pg_dump is PostgreSQL's.")
def test_data_alone_is_restored_by_psql_with_the_setting_that_suspends_initial(
    restored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate_crates()
    postgresql("--schema-only")
    with pytest.raises(subprocess.CalledProcessError):
        postgresql("--data-only", "--table=initial_states_crate")
    with monkeypatch.context() as environment:
        environment.setenv("PGOPTIONS", "-c container_manager.restoring=on")
        postgresql("--data-only", "--table=initial_states_crate")
    assert [crate.status for crate in Crate.objects.using(restored)] == ["delivered"]
    assert_initial_states_held(restored)


@pytest.mark.skipif(connection.vendor != "mysql", reason="mariadb-dump is MariaDB's.")
def test_data_alone_is_restored_by_mariadb_with_the_variable_that_suspends_initial(restored: str) -> None:
    populate_crates()
    server = ["--socket", connection.settings_dict["OPTIONS"]["unix_socket"], "--user", "root"]
    restore = [program("mariadb"), *server, name_of(ALIAS)]
    pipe([program("mariadb-dump"), *server, "--no-data", name_of("default")], restore)
    data = [
        program("mariadb-dump"),
        *server,
        "--no-create-info",
        "--skip-triggers",
        name_of("default"),
        "initial_states_crate",
    ]
    with pytest.raises(subprocess.CalledProcessError):
        pipe(data, restore)
    pipe(data, [*restore, "--init-command=SET @container_manager_restoring = 1"])
    assert [crate.status for crate in Crate.objects.using(restored)] == ["delivered"]
    assert_initial_states_held(restored)


def test_a_whole_dump_restores_rows_that_are_past_their_initial_state(restored: str) -> None:
    populate_crates()
    WAYS[connection.vendor][0]()
    assert [crate.status for crate in Crate.objects.using(restored)] == ["delivered"]
    assert_initial_states_held(restored)


def assert_initial_states_held(alias: str) -> None:
    assert check_triggers(None, databases=[alias]) == []
    with pytest.raises(IntegrityError, match="for a new row"), transaction.atomic(using=alias):
        Crate.objects.using(alias).create(status="delivered")
