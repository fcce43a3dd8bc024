"""Sphinx's settings. The diagrams and the table of settings are made from the code when the docs are built."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django  # noqa: E402

django.setup()

from container_manager import __version__  # noqa: E402
from container_manager.models import ContainerJob  # noqa: E402
from container_manager.statemachine.diagram import mermaid  # noqa: E402
from container_manager.statemachine.machine import machine_of  # noqa: E402

project = "django-container-manager"
copyright = "2026, the django-container-manager developers"  # noqa: A001  # Sphinx's name for it
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid"]
html_theme = "furo"
html_title = project
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["myst.header"]

generated = HERE / "_generated"
generated.mkdir(exist_ok=True)
(generated / "transitions.md").write_text(
    "```{mermaid}\n" + mermaid(machine_of(ContainerJob).graph) + "\n```\n", encoding="utf-8"
)
