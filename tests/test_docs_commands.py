"""The commands of README and the docs run as a user types them: from a wheel, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .test_docs import PAGES, ROOT, blocks

# A clone, a project, and an engine: an empty folder has none of them.
NEEDS_MORE_THAN_A_FOLDER = ("make", "manage.py", "docker", "podman", "kind", "kubectl")
# `run` exits with the exit code of its command.
EXIT_CODE = re.compile(r" run .*exit (\d)")
# A clone, as the pages name it: nothing is released yet, and the index has another project of that name.
CLONE = "./django-container-manager"
PIP = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_QUIET": "1"}


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Yield a page's commands that run in an empty folder, each with the output that the page shows."""
    for block in blocks(page, "console"):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            if command.split()[0] not in NEEDS_MORE_THAN_A_FOLDER:
                yield command, output


def test_the_commands_of_readme_and_tutorial_are_extracted() -> None:
    found = {page.name for page in PAGES if any(commands(page))}
    assert {"README.md", "first-job.md"} <= found


@pytest.mark.without_database
@pytest.mark.slow
def test_commands_of_the_docs_run_from_a_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    wheel, environment = new_environment(tmp_path)
    for page in PAGES:
        folder = tmp_path / page.relative_to(ROOT).with_suffix("")
        folder.mkdir(parents=True)
        for command, output in commands(page):
            # The page names the published package; this is about the one of this tree.
            own = command.replace(CLONE, str(wheel)) if command.startswith("pip install") else command
            check(f"{page.name}: $ {own}", own, output, folder, environment)


def new_environment(folder: Path) -> tuple[Path, dict[str, str]]:
    """Install a wheel of this tree in a new environment; return it, and the variables for a shell in there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CM_", "DJANGO_", "PYTHON"))}
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv" / "bin"
    environment = {**kept, **PIP, "PATH": f"{programs}:{os.environ['PATH']}"}
    build = [programs / "pip", "wheel", "--no-deps", "--wheel-dir", folder / "dist", ROOT]
    subprocess.run(build, check=True, env=environment)
    [wheel] = (folder / "dist").glob("*.whl")
    subprocess.run([programs / "pip", "install", wheel], check=True, env=environment)
    return wheel, environment


def check(title: str, command: str, output: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run one command; it must exit and print as the page says."""
    shell = ["sh", "-c", command]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    told = f"{title}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
    exits = EXIT_CODE.search(command)
    assert done.returncode == (int(exits[1]) if exits else 0), told
    assert not output or output in (done.stdout, done.stdout + done.stderr), f"{told}\nThe page says:\n{output}"
