"""The drawings say what the map says: every state and every edge once, and any name survives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from container_manager.models import ContainerJob
from container_manager.statemachine import Graph
from container_manager.statemachine.diagram import dot, mermaid

from .jobs import LEGAL

pytestmark = pytest.mark.without_database

JOB = Graph.declare(ContainerJob.VALID_TRANSITIONS)
ODD = ['say "hi"', "back\\slash", "#35;", "två ord", "end", "[*]", "a --> b", "}"]


def ring(names: list[Any]) -> Graph:
    return Graph.declare({name: [names[(i + 1) % len(names)]] for i, name in enumerate(names)})


def test_mermaid_draws_a_small_map() -> None:
    graph = Graph.declare({10: [20], 20: [10, 30], 30: []}, initial=[10])
    assert mermaid(graph, current=20).splitlines() == [
        "stateDiagram-v2",
        '    state "10" as s0',
        '    state "20" as s1',
        '    state "30" as s2',
        "    [*] --> s0",
        "    s0 --> s1",
        "    s1 --> s0",
        "    s1 --> s2",
        "    s2 --> [*]",
        "    classDef current fill:#ffd54f",
        "    class s1 current",
    ]


def test_dot_draws_a_small_map() -> None:
    graph = Graph.declare({10: [20], 20: [10, 30], 30: []}, initial=[10])
    assert dot(graph, current=20).splitlines() == [
        "digraph transitions {",
        "    rankdir=LR;",
        "    node [shape=box];",
        '    "10" [style="rounded,bold"];',
        '    "20" [style="rounded,filled", fillcolor="#ffd54f"];',
        '    "30" [style="rounded", peripheries=2];',
        '    "10" -> "20";',
        '    "20" -> "10";',
        '    "20" -> "30";',
        "}",
    ]


def test_every_edge_of_the_jobs_map_is_drawn_once() -> None:
    names = {state: f"s{number}" for number, state in enumerate(JOB.states)}
    drawn = [line.strip() for line in mermaid(JOB).splitlines() if " --> " in line and "[*]" not in line]
    assert sorted(drawn) == sorted(f"{names[s]} --> {names[t]}" for s, t in LEGAL)
    drawn = [line.strip() for line in dot(JOB).splitlines() if " -> " in line]
    assert sorted(drawn) == sorted(f'"{s}" -> "{t}";' for s, t in LEGAL)


def test_without_declared_initial_states_those_without_incoming_edges_are_drawn_as_initial() -> None:
    assert [line for line in mermaid(JOB).splitlines() if "[*] -->" in line] == ["    [*] --> s0"]
    assert [line for line in dot(JOB).splitlines() if "bold" in line] == ['    "pending" [style="rounded,bold"];']


@pytest.mark.parametrize("draw", [mermaid, dot])
@pytest.mark.parametrize("current", [None, "no state of the map"])
def test_a_current_state_outside_the_map_is_not_marked(draw: Callable[..., str], current: str | None) -> None:
    assert draw(JOB, current=current) == draw(JOB)
    assert draw(JOB, current="queued") != draw(JOB)


def test_mermaid_escapes_special_characters_in_state_names() -> None:
    lines = mermaid(ring(ODD)).splitlines()
    names = [line.removeprefix('    state "').rsplit('" as ', 1)[0] for line in lines if '" as ' in line]
    assert [name.replace("#quot;", '"').replace("#35;", "#") for name in names] == ODD
    assert all('"' not in name for name in names)
    assert all(line.split() == [f"s{i}", "-->", f"s{(i + 1) % len(ODD)}"] for i, line in enumerate(lines[-len(ODD) :]))


def test_dot_escapes_special_characters_in_state_names() -> None:
    lines = dot(ring(ODD)).splitlines()[3 : 3 + len(ODD)]
    names = [line.removeprefix('    "').removesuffix('" [style="rounded"];') for line in lines]
    assert [name.replace('\\"', '"').replace("\\\\", "\\") for name in names] == ODD
