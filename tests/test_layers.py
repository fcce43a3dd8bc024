"""Imports go down the layers only, the state machine knows nothing of the rest, and each name is there once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.without_database

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "container_manager"


def test_the_contracts_of_the_layers_are_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def contracts() -> dict[str, dict[str, Any]]:
    """Return by package the contract of its layers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = [each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    return {package: each for each in found for package in each["containers"]}


def layers() -> list[set[str]]:
    """Return the modules of each layer, packages as a whole, from the highest to the lowest."""
    return [set(layer.split(" | ")) for layer in contracts()["container_manager"]["layers"]]


def test_the_chart_of_the_layers_is_that_of_the_contract() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ {4}(\w+(?: · \w+)*)", page.split("## Layers")[1].split("## ")[0], re.M)
    assert [set(line.split(" · ")) for line in lines] == layers()


def test_every_package_of_more_than_two_modules_has_a_contract_that_names_each_of_them() -> None:
    packages = [path.parent for path in PACKAGE.rglob("__init__.py")]
    large = {package for package in packages if len([*package.glob("[!_]*.py"), *package.glob("*/__init__.py")]) > 2}
    names = {".".join(package.relative_to(ROOT).parts) for package in large}
    assert names - set(contracts()) == set()
    assert [package for package, contract in contracts().items() if contract.get("exhaustive") is not True] == []


def test_the_state_machine_imports_without_the_app() -> None:
    program = (
        "import sys, django; from django.conf import settings; settings.configure(); django.setup(); "
        "import container_manager.statemachine.model, container_manager.statemachine.diagram; "
        "loaded = [m for m in sys.modules if m.startswith('container_manager.')]; "
        "assert all(m.startswith('container_manager.statemachine') for m in loaded), loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_has_the_name_of_another() -> None:
    # What Django looks for by name in each app, and the modules of which there is one per database.
    exempt = {"admin", "apps", "checks", "migrations", "models", "mysql", "postgresql", "sqlite", "urls"}
    modules: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        if not {"management", "migrations"} & {*path.parts}:
            modules[path.parent.name if path.stem == "__init__" else path.stem] += 1
    assert {name for name, count in modules.items() if count > 1} - exempt == set()


# Public names that more than one module defines, by the reason.
NAMES_OF_MANY = {
    "Django, logging and readers of programs look for it": {"app_name", "logger", "main", "urlpatterns"},
    "type variables": {"K", "T"},
    "each verb of the command has one": {"JSON", "add_arguments", "run"},
    "each database has one": {"RESTORING"},
    "each engine has one": {"INSTALL_LABEL", "JOB_LABELS", "KEY_LABEL", "PULL_POLICIES", "SECRETS_FOLDER"},
    "a form of the dashboard and an operation of its API do the same": {"act_on_job", "stop_bulk_act"},
    "a fixture is called what it gives": {"fake_jobs", "run_queued_jobs"},
}


def test_no_class_function_or_value_has_the_name_of_another() -> None:
    modules: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        # A command's class is always `Command`, and what templates call is their own vocabulary.
        if not {"management", "migrations", "templatetags"} & {*path.parts}:
            modules.update(set(defined_names(ast.parse(path.read_text(encoding="utf-8")).body)))
    assert {name for name, count in modules.items() if count > 1} == set().union(*NAMES_OF_MANY.values())


def defined_names(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module defines: its classes, and its functions and values without an underscore."""
    for statement in statements:
        if isinstance(statement, ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from public(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            named = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
            yield from public(*(node.id for node in named if isinstance(node.ctx, ast.Store)))
        elif isinstance(statement, ast.If):
            yield from defined_names([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            yield from defined_names(statement.body)


def public(*names: str) -> list[str]:
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("benchmark", ["transitions", "process", "kubernetes", "against", "pages"])
def test_a_benchmark_starts(benchmark: str) -> None:
    """They use what the tests have, and nothing else looks whether it is still there."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
