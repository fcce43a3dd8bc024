"""Sphinx's settings. The diagram and the table of a job's fields are made from the code when the docs are built."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django  # noqa: E402

django.setup()

from container_manager import __version__  # noqa: E402
from container_manager.jobs.spec import OPTIONS, JobSpec  # noqa: E402
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
# A page's diagrams are drawn here as GitHub draws them.
myst_fence_as_directive = ["mermaid"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["myst.header"]

generated = HERE / "_generated"
generated.mkdir(exist_ok=True)
(generated / "transitions.md").write_text(
    "```{mermaid}\n" + mermaid(machine_of(ContainerJob).graph) + "\n```\n", encoding="utf-8"
)


def _job_fields() -> str:
    """Return the table of what a job is asked to run."""
    lines = ["| field | default | meaning |", "|---|---|---|"]
    for name in JobSpec._fields:
        meaning = OPTIONS[name].help if name in OPTIONS else ContainerJob._meta.get_field(name).help_text
        lines.append(f"| `{name}` | `{JobSpec._field_defaults[name]!r}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _screenshots() -> str:
    """Return the pictures that the browser tests have taken; a machine without a browser has none."""
    shown = ("job-light", "overview-light", "jobs-light", "failures-dark")
    found = [name for name in shown if (generated / "screenshots" / f"{name}.png").exists()]
    # As the page that includes it finds them.
    return "".join(f"![{name}](../_generated/screenshots/{name}.png)\n\n" for name in found)


(generated / "screenshots.md").write_text(_screenshots(), encoding="utf-8")
(generated / "job_fields.md").write_text(_job_fields(), encoding="utf-8")
