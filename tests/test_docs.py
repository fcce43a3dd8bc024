"""README and the docs agree with the code: their code runs, their tables and figures are those of the code."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from django.test import override_settings
from django.utils.module_loading import import_string

from benchmarks import report
from container_manager import checks, conf
from container_manager.checks import check_settings
from container_manager.cli.job_arguments import add_job_arguments
from container_manager.cli.verbs import VERBS
from container_manager.jobs.container_request import REQUEST_RULES, ContainerRequest
from container_manager.models import ContainerJob
from container_manager.statemachine.diagram import mermaid
from container_manager.statemachine.machine import machine_of

from .kubernetes import programs
from .polling import PATIENCE_SECONDS
from .workers import start_worker

pytestmark = pytest.mark.usual_statements
ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PERFORMANCE = (ROOT / "docs/explanation/performance.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[!_]*/*.md"))]
SHOWN_ONLY = "<!-- test: shown"
# By name: each needs an SDK, to import which takes longer than most of the tests that are collected with it.
OPTIONS = {
    "docker": "container_manager.executors.docker.options",
    "kubernetes": "container_manager.executors.kubernetes.kubernetes_options",
}
AFTER_WORKER = "<!-- test: after a worker has run"


def marked_blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """Yield a page's fenced blocks of a language, each with the comment before it, but those marked as only shown."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^(?P<mark><!--[^\n]*-->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```", text, re.M | re.S):
        if found["language"] == language and not (found["mark"] or "").startswith(SHOWN_ONLY):
            yield found["mark"] or "", found["body"]


def blocks(page: Path, language: str) -> list[str]:
    return [body for _, body in marked_blocks(page, language)]


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", with_blocks("python"), ids=lambda page: page.stem)
@pytest.mark.shows("howto/docker.md#run-jobs-in-containers")
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    names: dict[str, object] = {}
    for mark, block in marked_blocks(page, "python"):
        if mark.startswith(AFTER_WORKER):
            log = tmp_path / "worker.log"
            assert start_worker("--drain", log=log).wait(timeout=PATIENCE_SECONDS) == 0, log.read_text(encoding="utf-8")
        names.pop("CONTAINER_MANAGER", None)
        names.pop("OPTIONS", None)
        exec(compile(block, str(page), "exec"), names)  # noqa: S102  # our own docs
        with override_settings(CONTAINER_MANAGER=names.get("CONTAINER_MANAGER", {})):
            assert check_settings(None) == []
        if "OPTIONS" in names:
            executor = "kubernetes" if page.stem == "kubernetes" else "docker"
            import_string(f"{OPTIONS[executor]}.{executor}_options")(names["OPTIONS"])


def test_the_diagram_of_a_jobs_states_is_generated_from_the_map() -> None:
    page = (ROOT / "docs/explanation/status.md").read_text(encoding="utf-8")
    assert "```mermaid\n" + mermaid(machine_of(ContainerJob).graph) + "\n```" in page


def test_the_settings_page_lists_every_setting_with_its_default() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|$", page, re.M))
    settings = conf.AppSettings()
    names = {f.name.upper(): getattr(settings, f.name) for f in fields(settings) if f.name != "retry"}
    names |= {f'RETRY["{f.name.upper()}"]': getattr(settings.retry, f.name) for f in fields(settings.retry)}
    assert set(shown) == set(names)
    for name, text in shown.items():
        if name != "EXECUTORS":
            assert text == "`" + repr(names[name]).replace("'", '"') + "`"


def table(page: str, heading: str) -> dict[str, tuple[str, ...]]:
    """Return the rows of the table under a page's heading, by their first cells."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.M)
    [found] = [part for part in section if part.startswith(heading + "\n")]
    lines = [line for line in found.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("`"): tuple(rest) for first, *rest in cells}


@pytest.mark.parametrize("heading", ["Docker", "Kubernetes"])
def test_the_executors_page_lists_every_option_with_its_default(heading: str) -> None:
    options = import_string(f"{OPTIONS[heading.lower()]}.{heading}Options")()
    assert {name: default for name, (default, _) in table("reference/executors.md", heading).items()} == {
        f.name: "`" + repr(getattr(options, f.name)).replace("'", '"') + "`" for f in fields(options)
    }


@pytest.mark.shows("howto/docker.md#submit-a-job")
def test_the_executors_page_lists_every_container_request_with_its_option() -> None:
    shown = table("reference/executors.md", "What a job may ask for")
    assert {name: said for name, (_, said) in shown.items()} == {
        name: rule.expected for name, rule in REQUEST_RULES.items()
    }
    assert set(REQUEST_RULES) == {f.name for f in fields(ContainerRequest)}
    parser = ArgumentParser()
    add_job_arguments(parser)
    for options, _ in shown.values():
        for option in options.split(", "):
            assert option.strip("`") in parser.format_help()


def test_the_commands_page_lists_every_argument_of_a_job() -> None:
    parser = ArgumentParser(add_help=False)
    add_job_arguments(parser)
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    named = {action.option_strings[0] for action in parser._actions if action.option_strings}
    assert named <= set(re.findall(r"`(--[\w-]+)", page))


def test_the_commands_page_lists_every_verb() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)", page, re.M)) == set(VERBS)


def test_the_checks_page_lists_every_check() -> None:
    page = (ROOT / "docs/reference/checks.md").read_text(encoding="utf-8")
    sources = Path(checks.__file__).parent.rglob("*checks.py")
    used = {name for source in sources for name in re.findall(r"[a-z_]+\.[EW]\d{3}", source.read_text("utf-8"))}
    assert set(re.findall(r"`([a-z_]+\.[EW]\d{3})`", page)) == used


def sections(page: Path) -> dict[str, str]:
    """Return a page's sections by PAGE.md#section, with the anchors that Markdown gives their headings."""
    found = {}
    for section in re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.M)[1:]:
        anchor = re.sub(r"[^\w -]", "", section.splitlines()[0].lower()).replace(" ", "-")
        found[f"{page.relative_to(ROOT / 'docs')}#{anchor}"] = section
    return found


def claims(page: Path) -> list[str]:
    """Return those rows of a page's tables that have an anchor of their own, as PAGE.md#row."""
    return [f"{page.relative_to(ROOT / 'docs')}#{row}" for row in ROW.findall(page.read_text(encoding="utf-8"))]


def shown_by_tests() -> set[str]:
    """Return what the tests' marks name."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    marks = [mark for source in sources for mark in re.findall(r"mark\.shows\(([^)]+)\)", source)]
    return {anchor for mark in marks for anchor in re.findall(r'"([^"]+)"', mark)}


# Pages whose every section makes claims that tests show.
SHOWN_BY_TESTS = ["explanation/worker.md", "explanation/kubernetes.md", "howto/docker.md"]
# Sections of claims in tables: each row has an anchor, and tests that show it.
ROWS_SHOWN_BY_TESTS = [
    "explanation/kubernetes.md#bugs-that-others-have-and-what-happens-here",
    "explanation/attacks.md#to-get-out-of-the-container",
    "explanation/attacks.md#to-use-up-what-others-need",
    "explanation/attacks.md#to-learn-what-is-secret",
]
ROW = re.compile(r'^\| <a id="([\w-]+)"></a>', re.M)


def test_tests_show_what_exists_and_no_claim_of_the_docs_lacks_its_test() -> None:
    shown = shown_by_tests()
    found = {section: text for page in PAGES[1:] for section, text in sections(page).items()}
    rows = [row for page in PAGES[1:] for row in claims(page)]
    assert len(rows) == len(set(rows))
    assert shown <= {*found, *rows}
    assert set(rows) <= shown
    # Sections whose rows have tests are shown by these.
    of_pages = {section for page in SHOWN_BY_TESTS for section in sections(ROOT / "docs" / page)}
    assert of_pages - set(ROWS_SHOWN_BY_TESTS) <= shown


def test_every_test_of_an_attack_shows_a_row_of_the_table() -> None:
    source = (ROOT / "tests/docker/test_attacks.py").read_text(encoding="utf-8")
    tests = source.count("    def test_")
    assert tests
    assert source.count('    @pytest.mark.shows("explanation/attacks.md#') == tests


@pytest.mark.parametrize("section", ROWS_SHOWN_BY_TESTS)
def test_each_row_of_a_table_of_claims_has_an_anchor(section: str) -> None:
    page, _, _ = section.partition("#")
    text = sections(ROOT / "docs" / page)[section]
    _head, *rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows
    assert [row for row in rows if not ROW.match(row)] == []


def test_readme_leads_to_every_page() -> None:
    linked = {ROOT / target for target in re.findall(r"\]\((docs/[^)#]+\.md)", README)}
    assert set(PAGES[1:]) <= linked


def test_links_between_pages_name_existing_pages() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.shows("explanation/kubernetes.md#versions")
def test_the_versions_of_kubernetes_that_the_docs_name_are_those_of_the_tests() -> None:
    page = (ROOT / "docs/explanation/kubernetes.md").read_text(encoding="utf-8")
    [client] = re.findall(r"^kubernetes==(\d+)\.", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert f"Tested with Kubernetes {programs.VERSION}:" in page
    assert f"the official Python client {client}." in page


def test_the_figures_of_transitions_are_those_that_were_measured() -> None:
    shown = re.search(r"<!-- figures[^>]*-->\n(.*?)<!-- end of figures -->", PERFORMANCE, re.S)
    assert shown is not None
    results = ROOT / "benchmarks/results.json"
    measured = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    expected = [
        f"| {figure['database']} | {figure['subject']} / {figure['baseline']} | {figure['measured']:.2f} "
        f"| {figure['target']}{'' if figure['met'] else ', missed'} |"
        for figure in measured
    ]
    assert [line for line in shown[1].splitlines() if line.startswith("|")][2:] == expected


@pytest.mark.parametrize("part", ["queue", "process", "docker", "kubernetes"])
def test_the_figures_of_each_benchmark_page_are_those_that_were_measured(part: str) -> None:
    shown = re.search(rf"<!-- {part} figures[^>]*-->\n(.*?)<!-- end of {part} figures -->", PERFORMANCE, re.S)
    assert shown is not None
    measured = json.loads((ROOT / "benchmarks" / part / "results.json").read_text(encoding="utf-8"))
    targeted = [f for f in measured if f["at_least"] is not None or f["at_most"] is not None]
    expected = {f["name"]: f"{f['value']:.2f} {f['unit']}" for f in targeted}
    rows = [line.strip("| ").split(" | ") for line in shown[1].splitlines() if line.startswith("|")][2:]
    assert {name: value for name, value, _ in rows} == expected
    missed = {name for name, _, target in rows if "missed" in target}
    assert missed == {f["name"] for f in measured if not f["met"]}


def test_the_summary_of_benchmark_figures_is_what_was_measured() -> None:
    results = report.read_results()
    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        assert report.filled(text, results) == text
    shown = re.search(r"<!-- summary of figures[^>]*-->\n(.*?)<!-- end of summary of figures -->", README, re.S)
    assert shown is not None
    assert len([line for line in shown[1].splitlines() if line.startswith("|")][2:]) == 6
