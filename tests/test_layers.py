"""Imports go down the layers only, the state machine knows nothing of the rest, and each name is there once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.without_database

ROOT = Path(__file__).resolve().parent.parent


def test_the_contracts_of_the_layers_are_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def layers() -> list[set[str]]:
    """Return the modules of each layer, packages as a whole, from the highest to the lowest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[set[str]] = []
    for layer in project["tool"]["importlinter"]["contracts"][0]["layers"]:
        names = {path.split(".")[1] for path in layer.split(" | ")}
        if names not in found:
            found.append(names)
    return found


def test_the_chart_of_the_layers_is_that_of_the_contract() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ {4}(\w+(?: · \w+)*)", page.split("## Layers")[1].split("## ")[0], re.M)
    assert [set(line.split(" · ")) for line in lines] == layers()


def test_every_module_has_its_layer() -> None:
    # What only declares (the app, migrations), is empty, or is no Python belongs to no layer.
    exempt = {"apps", "migrations", "templates", "__init__"}
    names = {path.stem for path in (ROOT / "container_manager").iterdir() if not path.name.startswith(("__py", "py."))}
    assert names - exempt - set().union(*layers()) == set()


def test_the_state_machine_imports_without_the_app() -> None:
    program = (
        "import sys, django; from django.conf import settings; settings.configure(); django.setup(); "
        "import container_manager.statemachine.model, container_manager.statemachine.diagram; "
        "loaded = [m for m in sys.modules if m.startswith('container_manager.')]; "
        "assert all(m.startswith('container_manager.statemachine') for m in loaded), loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_and_no_class_has_the_name_of_another() -> None:
    # What Django looks for by name in each app, and the modules of which there is one per database.
    exempt = {"admin", "apps", "checks", "migrations", "models", "mysql", "postgresql", "sqlite", "urls", "views"}
    package = ROOT / "container_manager"
    modules: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        if {"management", "migrations"} & {*path.parts}:
            continue
        modules[path.parent.name if path.stem == "__init__" else path.stem] += 1
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes.update(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in modules.items() if count > 1 and name not in exempt] == []
    assert [name for name, count in classes.items() if count > 1] == []


@pytest.mark.parametrize("benchmark", ["transitions", "process", "kubernetes", "against", "pages"])
def test_a_benchmark_starts(benchmark: str) -> None:
    """They use what the tests have, and nothing else looks whether it is still there."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
