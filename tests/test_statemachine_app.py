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

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
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
GATE = ("check", "--database", "default", "--fail-level", "WARNING")


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
            SILENCED_SYSTEM_CHECKS = ["models.W037"]  # indexes with conditions, on MariaDB
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

    def edit(self, old: str, new: str) -> None:
        """Replace a text in the app's models."""
        models = self.folder / "articles/models.py"
        text = models.read_text(encoding="utf-8")
        assert old in text
        models.write_text(text.replace(old, new), encoding="utf-8")

    def migrate(self, *target: str) -> str:
        return self.manage("migrate", *target, "--verbosity", "0")

    def make_migration(self, operations: str, *, number: int, after: str) -> None:
        """Write a migration of the app by hand."""
        text = f"""from django.db import migrations, models


def publish(apps, schema_editor):
    apps.get_model("articles", "Article").objects.update(stage="published")


class Migration(migrations.Migration):
    dependencies = [("articles", "{after}")]
    operations = [{operations}]
"""
        (self.folder / f"articles/migrations/{number:04}_by_hand.py").write_text(text, encoding="utf-8")

    def shell(self, program: str) -> str:
        return self.manage("shell", "--verbosity", "0", "--command", program)


@pytest.mark.parametrize("apps", [(ALONE,), (JOBS,), (ALONE, JOBS)], ids=["alone", "jobs", "both"])
def test_the_check_names_a_dropped_trigger_and_a_command_that_repairs_it_everywhere(
    apps: Sequence[str], tmp_path: Path, database: dict[str, object]
) -> None:
    project = Project(tmp_path, apps, database)
    project.manage("makemigrations", "articles")
    project.manage("migrate", "--verbosity", "0")
    project.manage(*GATE)
    project.drop_trigger()
    text = project.manage(*GATE, status=1)
    assert text.count("(statemachine.W003)") == 1
    assert "article_stage" in text
    told = re.findall(r"'manage.py ([^']+)'", text)
    assert told == ["migrate --database default", "makemigrations"]
    differs = project.manage("statemachine", "triggers", status=1)
    assert "articles.Article: article_stage is missing or differs: article_stage" in differs
    installed = project.manage("statemachine", "triggers", "--install")
    assert "articles.Article: article_stage installed" in installed
    project.manage(*GATE)
    project.manage("statemachine", "triggers")
    project.drop_trigger()
    project.manage(*shlex.split(told[0]))
    project.manage(*GATE)


def test_the_state_machine_app_alone_has_checks_and_no_tables(tmp_path: Path, database: dict[str, object]) -> None:
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


def test_the_state_machine_command_prints_the_diagram_of_any_model(tmp_path: Path, database: dict[str, object]) -> None:
    project = Project(tmp_path, [ALONE], database)
    drawn = project.manage("statemachine", "diagram", "articles.Article", "--format", "dot", "--state", "draft")
    assert '"draft" -> "published";' in drawn
    assert re.search(r'"draft" \[.*fillcolor', drawn)
    assert "stateDiagram-v2" in project.manage("statemachine", "diagram", "articles.Article")
    unknown = project.manage("statemachine", "diagram", "articles.Article", "--state", "x", status=1)
    assert "Known statuses: draft, published" in unknown
    assert "exactly one TransitionConstraint" in project.manage("statemachine", "diagram", "articles.Move", status=1)
    assert "Nothing" in project.manage("statemachine", "diagram", "articles.Nothing", status=1)


WITHOUT_CONSTRAINTS = re.compile(
    r"        constraints = \[\n            TransitionConstraint.+?\n        \]\n", re.DOTALL
)
MAP = '{"draft": ["published"], "published": []}'
LONGER = '{"draft": ["published"], "published": ["withdrawn"], "withdrawn": []}'


@pytest.fixture
def project(tmp_path: Path, database: dict[str, object]) -> Project:
    """Give a project that is migrated, with an article that is a draft."""
    project = Project(tmp_path, [ALONE], database)
    project.manage("makemigrations", "articles")
    project.migrate()
    project.shell("from articles.models import Article; Article.objects.create()")
    return project


def assert_guarded_and_recorded(project: Project) -> None:
    """Assert that the article, a draft, can be published by a plain UPDATE, that it is recorded, and no more."""
    project.manage(*GATE)
    refused = project.shell(
        "from articles.models import Article, Move; from django.db import IntegrityError\n"
        "assert Article.objects.update(stage='published') == 1\n"
        "assert list(Move.objects.values_list('to_status', flat=True)) == ['published']\n"
        "try: Article.objects.update(stage='draft')\n"
        "except IntegrityError: print('refused')"
    )
    assert "refused" in refused


def test_migrate_installs_a_changed_map(project: Project) -> None:
    project.edit(MAP, LONGER)
    project.manage("makemigrations", "articles")
    project.manage(*GATE, status=1)
    project.migrate()
    assert_guarded_and_recorded(project)
    project.shell("from articles.models import Article; Article.objects.update(stage='withdrawn')")


def test_migrate_is_not_refused_while_a_changed_map_has_no_migration(project: Project) -> None:
    project.edit(MAP, LONGER)
    assert "not yet reflected in a migration" in project.manage("migrate")
    project.manage(*GATE, status=1)
    refused = project.shell(MOVE)  # by the map that the database is migrated to
    assert "Invalid transition from published" in refused


def test_loaddata_restores_rows_past_the_initial_state_and_a_raw_insert_still_cannot(
    tmp_path: Path, database: dict[str, object]
) -> None:
    project = Project(tmp_path, [ALONE], database)
    project.edit('"published": []}, name=', '"published": []}, initial=["draft"], name=')
    project.manage("makemigrations", "articles")
    project.migrate()
    project.shell(MOVE)
    project.manage("dumpdata", "articles", "--output", "dump.json")
    project.manage("flush", "--no-input")
    project.manage("loaddata", "dump.json")
    rows = "from articles.models import *; print(Article.objects.get().stage, Move.objects.get().actor)"
    assert project.shell(rows).strip() == "published alice"
    refused = project.shell(
        "from django.db import IntegrityError\nfrom articles.models import Article\n"
        "try:\n    Article.objects.create(stage='published')\nexcept IntegrityError as refusal:\n    print(refusal)"
    )
    assert "draft" in refused


def test_migrate_adds_constraints_to_a_table_that_exists(tmp_path: Path, database: dict[str, object]) -> None:
    project = Project(tmp_path, [ALONE], database)
    models = tmp_path / "articles/models.py"
    models.write_text(
        WITHOUT_CONSTRAINTS.sub("        pass\n", MODELS)
        .replace("(StateMachineModel)", "(models.Model)")
        .replace("StateMachineQuerySet.as_manager()", "models.Manager()"),
        encoding="utf-8",
    )
    project.manage("makemigrations", "articles")
    project.migrate()
    models.write_text(MODELS, encoding="utf-8")
    project.manage("makemigrations", "articles")
    project.migrate()
    project.shell("from articles.models import Article; Article.objects.create()")
    assert_guarded_and_recorded(project)


RENAMES = {
    "column of the primary key": (
        "    stage = models.CharField(",
        '    id = models.BigAutoField(primary_key=True, db_column="number")\n    stage = models.CharField(',
    ),
    "column of the status": ('default="draft")', 'default="draft", db_column="state")'),
    "column of the version": ("PositiveIntegerField(default=0)", 'PositiveIntegerField(default=0, db_column="v")'),
    "column of the time": (
        "moved_at = models.DateTimeField(null=True)",
        'moved_at = models.DateTimeField(null=True, db_column="moved")',
    ),
}


@pytest.mark.parametrize("rename", RENAMES)
def test_triggers_follow_another_db_column(project: Project, rename: str) -> None:
    project.edit(*RENAMES[rename])
    project.manage("makemigrations", "articles")
    project.migrate()
    assert_guarded_and_recorded(project)


def test_triggers_follow_a_column_back_to_its_old_name(project: Project) -> None:
    before = (project.folder / "articles/models.py").read_text(encoding="utf-8")
    project.edit(*RENAMES["column of the version"])
    project.manage("makemigrations", "articles")
    project.migrate()
    project.migrate("articles", "0001")
    (project.folder / "articles/models.py").write_text(before, encoding="utf-8")
    (migration,) = (project.folder / "articles/migrations").glob("0002*.py")
    migration.unlink()
    assert_guarded_and_recorded(project)


def test_triggers_follow_a_renamed_primary_key(project: Project) -> None:
    (first,) = (path.stem for path in (project.folder / "articles/migrations").glob("0001*.py"))
    project.make_migration('migrations.RenameField("article", "id", "number")', number=2, after=first)
    project.edit(
        "    stage = models.CharField(",
        "    number = models.BigAutoField(primary_key=True, auto_created=True, serialize=False, verbose_name='ID')\n"
        "    stage = models.CharField(",
    )
    project.migrate()
    assert_guarded_and_recorded(project)


def test_triggers_follow_the_renamed_table_of_the_journal(project: Project) -> None:
    project.edit("    class Meta:\n        constraints = [JournalTable", MOVED_TABLE)
    told = project.manage("makemigrations", "articles", status=1)
    assert "article_journal writes to 'articles_move', which is no model's table" in told
    project.edit('table="articles_move"', 'table="articles_record"')
    project.manage("makemigrations", "articles")
    if connection.vendor == "sqlite":
        rename_before_adding(project)
    project.migrate()
    assert_guarded_and_recorded(project)
    project.migrate("articles", "0001")
    recorded = project.shell(
        "from django.db import connection; from articles.models import Article; pk = Article.objects.create().pk; "
        "Article.objects.filter(pk=pk).update(stage='published'); cursor = connection.cursor(); "
        "cursor.execute('SELECT to_status FROM articles_move'); print(cursor.fetchall()[-1])"
    )
    assert "published" in recorded


def rename_before_adding(project: Project) -> None:
    """SQLite renames no table while a trigger names one that does not exist; the manual says so."""
    (path,) = (project.folder / "articles/migrations").glob("0002*.py")
    text = path.read_text(encoding="utf-8")
    (rename,) = re.findall(r"        migrations.AlterModelTable\(.+?\n        \),\n", text, re.DOTALL)
    add = "        migrations.AddConstraint("
    assert text.index(add) < text.index(rename)
    path.write_text(text.replace(rename, "").replace(add, rename + add), encoding="utf-8")


MOVED_TABLE = """    class Meta:
        db_table = "articles_record"
        constraints = [JournalTable"""


def test_a_data_migration_after_a_renamed_column_succeeds_at_the_second_migrate_at_the_latest(
    project: Project,
) -> None:
    """PostgreSQL's and MariaDB's triggers name the old column until the end of a migrate, or the start of the next."""
    project.edit(*RENAMES["column of the status"])
    project.manage("makemigrations", "articles")
    (second,) = (path.stem for path in (project.folder / "articles/migrations").glob("0002*.py"))
    project.make_migration("migrations.RunPython(publish)", number=3, after=second)
    project.manage("migrate", status=0 if connection.vendor == "sqlite" else 1)
    project.migrate()
    project.manage(*GATE)
    moves = project.shell("from articles.models import Move; print(Move.objects.get().to_status)")
    assert moves.strip() == "published"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL's triggers have functions.")
def test_migrating_an_app_to_zero_leaves_no_trigger_function(project: Project) -> None:
    project.migrate("articles", "zero")
    count = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'article%%'"
    left = f'from django.db import connection; c = connection.cursor(); c.execute("{count}", []); print(c.fetchone())'
    assert project.shell(left).strip() == "(0,)"
