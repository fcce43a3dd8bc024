"""Imports go down the layers only, and the state machine knows nothing of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_contracts_of_the_layers_are_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_module_has_its_layer() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[[tool.importlinter.contracts]]")[1]
    # What only declares (the app, migrations) or is empty belongs to no layer.
    exempt = {"apps", "migrations", "__init__"}
    names = {path.stem for path in (ROOT / "container_manager").iterdir() if not path.name.startswith(("__py", "py."))}
    assert {name for name in names - exempt if f"container_manager.{name}" not in listed} == set()


def test_the_state_machine_imports_without_the_app() -> None:
    program = (
        "import sys, django; from django.conf import settings; settings.configure(); django.setup(); "
        "import container_manager.statemachine.model, container_manager.statemachine.diagram; "
        "loaded = [m for m in sys.modules if m.startswith('container_manager.')]; "
        "assert all(m.startswith('container_manager.statemachine') for m in loaded), loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
