"""A real browser, and a web server of its own, on the tests' database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client

from ..polling import PATIENCE_SECONDS, eventually
from ..ports import free_port
from ..prerequisites import require

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent.parent
SCREENSHOTS = ROOT / "docs" / "_generated" / "screenshots"
_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
ALL = ("view_containerjob", "add_containerjob", "cancel_containerjob", "retry_containerjob", "pause_queues")
ALL_AND_SECRETS = (*ALL, "see_environment", "see_output")


@pytest.fixture(scope="module")
def chromium(django_db_setup: None) -> Iterator[Browser]:
    require("Playwright for Python (the extra `browser`)", find_spec("playwright"))
    program = shutil.which("chromium")
    require("Chromium (Debian's package)", program)
    from playwright.sync_api import sync_playwright

    # Its event loop is that of this thread, in which Django would refuse the tests' queries. Tests of other modules that
    # follow in the same process could start none of their own.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
            yield browser
            browser.close()
    finally:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="session")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the tests' site; give its address."""
    port = free_port()
    options = ["--noreload", "--insecure", "--skip-checks", f"127.0.0.1:{port}"]
    with serving(["django", "runserver", *options], port, tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@contextmanager
def serving(command: Sequence[str], port: int, log: Path) -> Iterator[str]:
    """Run a Python module that serves the tests' site; give its address."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=stream, stderr=stream
        )
    try:
        eventually(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def visit(
    chromium: Browser, server: str, transactional_db: None, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Page]]:
    """Give what opens the site in a browser of its own for a user with these permissions; True: all.

    No page may have an error in its console, of a script or of the Content-Security-Policy.
    """
    problems: list[str] = []
    contexts: list[Any] = []

    def open_as(*permissions: str, name: str = "ann", theme: str = "light", scripts: bool = True, **more: Any) -> Page:
        context = chromium.new_context(
            base_url=server,
            color_scheme=theme,
            java_script_enabled=scripts,
            viewport={"width": 1280, "height": 900},
            **more,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        context.add_cookies(
            [{"name": settings.SESSION_COOKIE_NAME, "value": _session(name, permissions), "url": server}]
        )
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda message: (
                problems.append(f"{page.url}: {message.text}") if message.type in ("error", "warning") else None
            ),
        )
        return page

    open_as.problems = problems  # type: ignore[attr-defined]
    yield open_as
    for context in contexts:
        context.close()
    assert problems == []


def _session(name: str, permissions: tuple[str, ...]) -> str:
    """Make a user with these permissions and log in; return the session's key."""
    user = User.objects.filter(username=name).first() or User.objects.create_user(name)
    if permissions:
        # No flush between two tests makes them anew.
        create_permissions(apps.get_app_config("container_manager"), verbosity=0)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def expect(locator: Any) -> Any:
    """Do Playwright's `expect`, with the full patience."""
    from playwright.sync_api import expect as expect_in_time

    expect_in_time.set_options(timeout=PATIENCE_SECONDS * 1000)
    return expect_in_time(locator)


def screenshot(page: Page, name: str) -> None:
    """Keep a picture of the whole page with what the docs are built from."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
