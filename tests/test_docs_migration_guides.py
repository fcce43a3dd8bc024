"""The how-to pages by which projects move here from other ways to run work and to keep a status, step by step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs_projects import PageProject, files_of, shown
from .test_statemachine_app import ALONE, GATE

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
REPORTS = """
from django.db import models


class Report(models.Model):
    year = models.IntegerField(unique=True)
    text = models.TextField()
"""
FOLDER = "/srv/project"


def reports(folder: Path, database: dict[str, object]) -> PageProject:
    """Return the project of the page about Celery and cron, migrated."""
    files = {"reports/models.py": REPORTS, **files_of("move-from-celery-or-cron.md")}
    apps = ["django.contrib.contenttypes", "container_manager", "reports"]
    project = PageProject(folder, apps, database, files, MIDDLEWARE=[], BASE_DIR=str(folder))
    project.manage("makemigrations", "reports")
    project.migrate()
    return project


@pytest.mark.shows("howto/move-from-celery-or-cron.md#make-the-task-a-command")
def test_a_task_of_celery_becomes_a_command_that_is_queued_with_the_transaction(
    tmp_path: Path, database: dict[str, object]
) -> None:
    reports(tmp_path, database).run(
        """
        from django.db import transaction
        from container_manager.testing import run_queued_jobs
        from reports.models import Report
        from reports.orders import order_report, order_report_once

        with transaction.atomic():
            order_report(2024)
            transaction.set_rollback(True)
        assert run_queued_jobs() == []

        job = order_report_once(2025)
        assert order_report_once(2025) == job
        assert run_queued_jobs() == [job]
        job.refresh_from_db()
        assert (job.status, job.output()) == ("completed", b"The report of 2025 is made.\\n"), job.last_error
        assert order_report_once(2025) != job
        assert len(run_queued_jobs()) == 1
        assert list(Report.objects.values_list("year", "text")) == [(2025, "2025: 12 sales")]
        """
    )


@pytest.mark.shows("howto/move-from-celery-or-cron.md#move-the-crontab")
def test_a_crontab_line_submits_the_command_it_ran_before(tmp_path: Path, database: dict[str, object]) -> None:
    project, page = reports(tmp_path, database), shown("move-from-celery-or-cron.md")
    for line in (page["the crontab before"], page["the crontab after"]):
        command = line.removeprefix("0 3 * * * ").replace(FOLDER, str(tmp_path))
        command = command.replace(".venv/bin/python", sys.executable)
        done = subprocess.run(["/bin/sh", "-ec", command], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    project.manage("container", "worker", "--drain")
    project.run(
        """
        from container_manager.models import ContainerJob
        from reports.models import Report
        job = ContainerJob.objects.get()
        assert (job.name, job.status, job.max_retries) == ("report-2025", "completed", 2), job.last_error
        assert job.output() == b"The report of 2025 is made.\\n"
        assert Report.objects.count() == 1
        """
    )


@pytest.mark.shows("howto/move-from-a-status-field.md#3-write-the-migrations")
def test_a_hand_written_status_field_with_data_moves_by_the_steps_of_the_page(
    tmp_path: Path, database: dict[str, object]
) -> None:
    page, files = shown("move-from-a-status-field.md"), files_of("move-from-a-status-field.md")
    project = PageProject(tmp_path, ["tickets"], database, {"tickets/models.py": page["the models before"]})
    project.manage("makemigrations", "tickets")
    project.migrate()
    project.run(
        """
        from tickets.models import Ticket
        for status in ("new", "open", "open", "closed", "done"):
            Ticket.objects.create(title=f"was {status}", status=status)
        """
    )
    told = project.shell(page["the question"])
    assert told.splitlines() == ["'closed' 1", "'done' 1", "'new' 1", "'open' 2"]

    settings = (tmp_path / "settings.py").read_text(encoding="utf-8")
    project.write("settings.py", settings.replace("'tickets'", f"'{ALONE}', 'tickets'"))
    for path, text in files.items():
        project.write(path, text)
    project.manage("makemigrations", "tickets", "--name", "state_machine")
    project.manage("makemigrations", "tickets", "--check")
    # Only the constraint: no column is altered.
    made = (tmp_path / "tickets/migrations/0003_state_machine.py").read_text(encoding="utf-8")
    assert re.findall(r"migrations\.([A-Z]\w+)\(", made.partition("operations")[2]) == ["AddConstraint"]
    project.migrate()
    project.manage(*GATE)
    project.run(
        """
        from django.db import IntegrityError, models, transaction
        from container_manager.statemachine import InvalidTransition, StaleTransition
        from tickets.models import Ticket

        closed = Ticket.objects.get(title="was done")
        assert closed.status == "closed"

        class OldTicket(models.Model):
            status = models.CharField(max_length=20)
            class Meta:
                app_label, managed, db_table = "old", False, "tickets_ticket"

        OldTicket.objects.filter(pk=closed.pk).update(status="open")
        try:
            with transaction.atomic():
                OldTicket.objects.filter(pk=closed.pk).update(status="new")
        except IntegrityError:
            pass
        else:
            raise SystemExit("not refused")

        ticket, stale = Ticket.objects.get(title="was new"), Ticket.objects.get(title="was new")
        ticket.status = "closed"
        ticket.save()
        for changed, status, refusal in ((ticket, "new", InvalidTransition), (stale, "open", StaleTransition)):
            changed.status = status
            try:
                changed.save()
            except refusal:
                pass
            else:
                raise SystemExit("not refused")
        moved = Ticket.objects.all().transition_to("closed")
        assert (moved.changed, len(moved.refused)) == (3, 2), moved
        """
    )
