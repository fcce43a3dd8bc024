"""``container_manager.testing`` in the tests of other projects, run as their developers run them: the how-to page's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs_projects import PageProject, files_of, shown

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
PAGE = "testing.md"
IN_MEMORY: dict[str, object] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
# Django's, in autocommit: receivers and code of transaction.on_commit run, as the page says.
IN_AUTOCOMMIT = """
from asgiref.sync import sync_to_async
from django.test import TestCase, TransactionTestCase
from container_manager.signals import job_transitioned
from container_manager.testing import run_job
from .reports import order_report


class Receivers:
    def setUp(self):
        self.heard = []
        job_transitioned.connect(self.note)
        self.addCleanup(job_transitioned.disconnect, self.note)

    def note(self, transitions, **kwargs):
        self.heard += [move.target for move in transitions]


class InAutocommit(Receivers, TransactionTestCase):
    def test_receivers_run_at_once(self):
        self.assertEqual(run_job(order_report(2025)).output(), b"2025: 12 sales\\n")
        self.assertEqual(self.heard, ["running", "completed"])


class InATransaction(Receivers, TestCase):
    async def test_a_job_runs_in_an_asynchronous_test(self):
        report = await sync_to_async(order_report)(2025)
        await sync_to_async(run_job)(report)
        self.assertEqual(report.status, "completed")

    def test_receivers_run_where_djangos_context_manager_captures_what_is_to_run_on_commit(self):
        run_job(order_report(2024))
        self.assertEqual(self.heard, [])
        with self.captureOnCommitCallbacks(execute=True):
            run_job(order_report(2025))
        self.assertEqual(self.heard, ["running", "completed"])
"""
INI = """
[pytest]
DJANGO_SETTINGS_MODULE = settings
pythonpath = .
addopts = --strict-markers -p no:cacheprovider
filterwarnings = error
"""
# Nothing of this repository but the package may be needed.
CONFTEST = """

def pytest_sessionfinish():
    import sys
    assert not [name for name in sys.modules if name.partition(".")[0] == "tests"]
"""


def project(folder: Path, database: dict[str, object], **files: str) -> PageProject:
    """Return the project of the page."""
    apps = ["django.contrib.contenttypes", "container_manager", "reports"]
    conftest = shown(PAGE)["conftest.py is the plugin"] + CONFTEST
    made = {"pytest.ini": INI, "conftest.py": conftest, **files_of(PAGE), **files}
    made["engines/popen.py"] = (ROOT / "tests/popen_executor.py").read_text(encoding="utf-8")
    return PageProject(folder, apps, database, made, MIDDLEWARE=[])


def pytest_in(folder: Path, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.shows("howto/testing.md#run-jobs-for-real")
@pytest.mark.django_db(transaction=True)
def test_the_tests_of_the_testing_page_pass_with_djangos_runner_in_a_transaction_and_in_autocommit(
    tmp_path: Path, database: dict[str, object]
) -> None:
    done = project(tmp_path, database, **{"reports/test_receivers.py": IN_AUTOCOMMIT}).manage(
        "test", "reports.tests", "reports.test_receivers", "--noinput"
    )
    assert "Ran 7 tests" in done


@pytest.mark.without_database
@pytest.mark.parametrize("runner", ["test", "test --parallel 2"])
def test_the_tests_of_the_testing_page_pass_on_sqlite_in_memory(tmp_path: Path, runner: str) -> None:
    done = project(tmp_path, IN_MEMORY, **{"reports/test_receivers.py": IN_AUTOCOMMIT}).manage(
        *runner.split(), "reports.tests", "reports.test_receivers"
    )
    assert "Ran 7 tests" in done


@pytest.mark.shows("howto/testing.md#with-pytest")
@pytest.mark.without_database
@pytest.mark.parametrize("options", [(), ("--nomigrations",), ("-p", "no:randomly")], ids=str)
def test_the_fixtures_of_the_plugin_run_and_script_jobs(tmp_path: Path, options: tuple[str, ...]) -> None:
    project(tmp_path, IN_MEMORY)
    assert "2 passed" in pytest_in(tmp_path, *options, "reports/test_reports.py")


@pytest.mark.shows("howto/testing.md#test-an-executor-of-your-own")
@pytest.mark.without_database
def test_a_third_party_executor_passes_the_conformance_suite(tmp_path: Path) -> None:
    project(tmp_path, IN_MEMORY)
    assert "17 passed, 1 skipped" in pytest_in(tmp_path, "engines/test_popen.py")


@pytest.mark.without_database
def test_the_conformance_suite_shows_with_values_what_an_executor_does_wrong(tmp_path: Path) -> None:
    made = project(tmp_path, IN_MEMORY)
    wrong = (tmp_path / "engines/popen.py").read_text(encoding="utf-8")
    made.write("engines/popen.py", wrong.replace("ExitStatus(code=code) if", "ExitStatus(code=code % 7) if"))
    told = pytest_in(tmp_path, "engines/test_popen.py", "-k", "exit_code", status=1)
    assert "assert 0 == 7" in told
