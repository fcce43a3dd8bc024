"""The steps of the how-to page about production, run in a project as its readers run them."""

from __future__ import annotations

import shlex
from pathlib import Path
from textwrap import dedent

import pytest

from .test_docs_projects import PageProject, shown

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
MANAGE = "python manage.py "
# A migration of a later release that this one does not know, and its triggers: of one there is none, to begin with.
LATER = """
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from container_manager.models import ContainerJob
MigrationRecorder(connection).record_applied("container_manager", "0002_of_a_later_release")
on = f" ON {ContainerJob._meta.db_table}" if connection.vendor == "postgresql" else ""
with connection.cursor() as cursor:
    cursor.execute(f"DROP TRIGGER {TRIGGER}{on}")
"""


def run(project: PageProject, block: str) -> None:
    for line in shown("deploy.md")[block].splitlines():
        command = line.removeprefix("$ ")
        if command.startswith(MANAGE):
            project.manage(*shlex.split(command.removeprefix(MANAGE)))


@pytest.mark.shows("howto/deploy.md#set-a-server-up", "howto/deploy.md#upgrade-the-package")
def test_a_server_is_set_up_and_goes_back_to_an_old_version_by_the_commands_of_the_page(
    tmp_path: Path, database: dict[str, object]
) -> None:
    apps = ["django.contrib.contenttypes", "container_manager"]
    project = PageProject(tmp_path, apps, database, {}, MIDDLEWARE=[], SILENCED_SYSTEM_CHECKS=["models.W037"])
    run(project, "set up")

    found = project.manage("container", "triggers")
    trigger = next(word for word in found.split() if word.startswith("cm_"))
    project.shell(f"TRIGGER = {trigger!r}\n{dedent(LATER)}")
    assert "missing" in project.manage("container", "worker", "--drain", status=1)
    run(project, "go back")
    project.run(
        """
        from container_manager import queue
        from django.core.management import call_command
        job = queue.enqueue(command="true")
        call_command("container", "worker", "--drain")
        assert job.wait(timeout=60) == "completed"
        """
    )
    assert "0002_of_a_later_release" in project.shell(
        "from django.db.migrations.recorder import MigrationRecorder as R; "
        "print(list(R.Migration.objects.values_list('name', flat=True)))"
    )
