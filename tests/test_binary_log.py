"""``migrate`` on a MariaDB whose binary log, or whose rights, let this user create tables but no triggers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .servers import mariadb, memory
from .test_statemachine_app import ALONE, GATE, Project

pytestmark = pytest.mark.skipif(
    os.environ.get("CM_TEST_DATABASE") != "mariadb", reason="Only MariaDB and MySQL ask for a right because of a log."
)


class Server:
    """A MariaDB with a binary log, a database, and a user who owns that."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    def root(self, statements: str) -> str:
        client = [
            "mariadb",
            "--no-defaults",
            f"--socket={self.socket}",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]
        return subprocess.run(client, input=statements, capture_output=True, text=True, check=True).stdout

    def tables(self) -> list[str]:
        return self.root("SHOW TABLES FROM project").split()

    def database(self) -> dict[str, object]:
        options = {"unix_socket": self.socket, "charset": "utf8mb4"}
        return {"ENGINE": "django.db.backends.mysql", "NAME": "project", "USER": "app", "OPTIONS": options}


@pytest.fixture
def server() -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory(prefix="cm-", dir=memory()) as folder,
        mariadb(Path(folder), "--log-bin=log") as address,
    ):
        server = Server(address["CM_TEST_SOCKET"])
        server.root("CREATE DATABASE project CHARACTER SET utf8mb4; CREATE USER app@localhost")
        yield server


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, [ALONE], server.database())


def test_migrate_without_binary_log_rights_refuses_before_the_first_table_with_a_hint_that_helps(
    server: Server, project: Project
) -> None:
    server.root("GRANT ALL ON project.* TO app@localhost")
    project.manage("makemigrations", "articles")
    told = project.manage("migrate", status=1)
    assert "error 1419" in told
    assert "log_bin_trust_function_creators = 1" in told
    assert "Traceback" not in told
    assert server.tables() == []
    server.root("SET GLOBAL log_bin_trust_function_creators = 1")
    project.migrate()
    project.manage(*GATE)


def test_a_user_with_the_right_that_the_hint_names_can_migrate(server: Server, project: Project) -> None:
    server.root("GRANT ALL ON project.* TO app@localhost; GRANT SUPER ON *.* TO app@localhost")
    project.manage("makemigrations", "articles")
    project.migrate()
    project.manage(*GATE)


def test_migrate_without_the_right_to_create_triggers_refuses_before_the_first_table(
    server: Server, project: Project
) -> None:
    server.root(
        "SET GLOBAL log_bin_trust_function_creators = 1; GRANT ALL ON project.* TO app@localhost; "
        "REVOKE TRIGGER ON project.* FROM app@localhost"
    )
    project.manage("makemigrations", "articles")
    assert "Grant it the right TRIGGER" in project.manage("migrate", status=1)
    assert server.tables() == []
    server.root("GRANT TRIGGER ON project.* TO app@localhost")
    project.migrate()
    project.manage(*GATE)


def test_triggers_that_cannot_be_installed_are_not_dropped(server: Server, project: Project) -> None:
    """On MariaDB a DROP is committed at once."""
    server.root("GRANT ALL ON project.* TO app@localhost; SET GLOBAL log_bin_trust_function_creators = 1")
    project.manage("makemigrations", "articles")
    project.migrate()
    triggers = "SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = 'project'"
    project.drop_trigger()
    before = server.root(triggers)
    server.root("SET GLOBAL log_bin_trust_function_creators = 0")
    assert "error 1419" in project.manage("migrate", status=1)
    assert "error 1419" in project.manage("statemachine", "triggers", "--install", status=1)
    assert server.root(triggers) == before
