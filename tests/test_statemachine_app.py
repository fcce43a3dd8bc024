"""``container_manager.statemachine`` as an app of its own, in a small project that is run as users run it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest
from django.db import connection

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parent.parent
ALONE, JOBS = "container_manager.statemachine", "container_manager"

MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
MODELS = """
from django.db import models
from container_manager.statemachine import Effect, JournalTable, TransitionConstraint, TransitionJournal
from container_manager.statemachine.model import StateMachineModel
from container_manager.statemachine.queryset import StateMachineQuerySet


class Article(StateMachineModel):
    transition_effects = {"published": {"published_at": Effect.NOW}}
    stage = models.CharField(max_length=20, default="draft")
    published_at = models.DateTimeField(null=True)
    version = models.PositiveIntegerField(default=0)
    moved_at = models.DateTimeField(null=True)
    moved_by = models.CharField(max_length=50, default="")
    why = models.TextField(default="")
    objects = StateMachineQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(
                field="stage", transitions={"draft": ["published"], "published": []}, name="article_stage"
            ),
            TransitionJournal(
                field="stage", table="articles_move", name="article_journal", subject="article_id", version="version",
                at="moved_at", actor="moved_by", reason="why",
            ),
        ]


class Move(models.Model):
    article = models.ForeignKey(Article, models.CASCADE)
    from_status = models.CharField(max_length=20)
    to_status = models.CharField(max_length=20)
    at = models.DateTimeField()
    actor = models.CharField(max_length=50)
    reason = models.TextField()

    class Meta:
        constraints = [JournalTable(name="article_moves")]
"""
MOVE = """
from django.db import IntegrityError
from articles.models import Article, Move
article = Article.objects.create()
article.transition_to("published", actor="alice")
assert Move.objects.get().actor == "alice"
try:
    Article.objects.update(stage="draft")
except IntegrityError as refusal:
    print(refusal)
"""


class Project:
    """A project with one app, whose model has a state machine."""

    def __init__(self, folder: Path, apps: Sequence[str], database: dict[str, object]) -> None:
        self.folder = folder
        settings = f"""
            SECRET_KEY = "only for tests"
            INSTALLED_APPS = {["articles", *apps]!r}
            DATABASES = {{"default": {database!r}}}
            DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
            USE_TZ = True
        """
        (folder / "articles").mkdir()
        for name, text in {
            "manage.py": MANAGE,
            "settings.py": dedent(settings),
            "articles/__init__.py": "",
            "articles/models.py": MODELS,
        }.items():
            (folder / name).write_text(text, encoding="utf-8")

    def manage(self, *arguments: str, status: int = 0) -> str:
        """Run ``manage.py`` and return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def drop_trigger(self) -> None:
        on = " ON articles_article" if connection.vendor == "postgresql" else ""
        self.shell(
            f"from django.db import connection; connection.cursor().execute('DROP TRIGGER article_stage{on}')",
        )

    def shell(self, program: str) -> str:
        return self.manage("shell", "--verbosity", "0", "--command", program)


@pytest.mark.parametrize("apps", [(ALONE,), (JOBS,), (ALONE, JOBS)], ids=["alone", "jobs", "both"])
def test_the_check_names_a_dropped_trigger_and_a_command_that_every_installation_has(
    apps: Sequence[str], tmp_path: Path, database: dict[str, object]
) -> None:
    project = Project(tmp_path, apps, database)
    project.manage("makemigrations", "articles")
    project.manage("migrate", "--verbosity", "0")
    project.manage("check", "--database", "default")
    project.drop_trigger()
    text = project.manage("check", "--database", "default", status=1)
    assert text.count("(statemachine.E003)") == 1
    assert "article_stage" in text
    told = re.findall(r"'manage.py ([^']+)'", text)
    assert told == ["migrate", "statemachine triggers --install --database default"]
    differs = project.manage("statemachine", "triggers", status=1)
    assert "articles.Article: article_stage is missing or differs: article_stage" in differs
    assert "articles.Article: article_stage installed" in project.manage(*shlex.split(told[1]))
    project.manage("check", "--database", "default")
    project.manage("statemachine", "triggers")


def test_alone_it_brings_its_checks_and_no_tables(tmp_path: Path, database: dict[str, object]) -> None:
    project = Project(tmp_path, [ALONE], database)
    project.manage("makemigrations", "articles")
    assert "No changes" in project.manage("makemigrations", "--check")
    assert "CREATE TRIGGER" in project.manage("sqlmigrate", "articles", "0001")
    assert "no table" in project.manage("statemachine", "triggers", status=1)
    project.manage("migrate", "--verbosity", "0")
    tables = project.shell("from django.db import connection; print(connection.introspection.table_names())")
    assert sorted(re.findall(r"'(\w+)'", tables)) == ["articles_article", "articles_move", "django_migrations"]
    assert "Invalid transition from published" in project.shell(MOVE)
    models = tmp_path / "articles/models.py"
    models.write_text(MODELS.replace('{"published": {', '{"publisht": {'), encoding="utf-8")
    assert "(statemachine.E006) transition_effects names 'publisht'" in project.manage("check", status=1)


def test_its_command_prints_the_diagram_of_any_model(tmp_path: Path, database: dict[str, object]) -> None:
    project = Project(tmp_path, [ALONE], database)
    drawn = project.manage("statemachine", "diagram", "articles.Article", "--format", "dot", "--state", "draft")
    assert '"draft" -> "published";' in drawn
    assert re.search(r'"draft" \[.*fillcolor', drawn)
    assert "stateDiagram-v2" in project.manage("statemachine", "diagram", "articles.Article")
    unknown = project.manage("statemachine", "diagram", "articles.Article", "--state", "x", status=1)
    assert "Known statuses: draft, published" in unknown
    assert "exactly one TransitionConstraint" in project.manage("statemachine", "diagram", "articles.Move", status=1)
    assert "Nothing" in project.manage("statemachine", "diagram", "articles.Nothing", status=1)
