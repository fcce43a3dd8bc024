"""A wrong map is refused where it is declared, by an error that names the state."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import Enum, IntEnum
from itertools import permutations
from typing import Any

import pytest
from django.db.migrations.writer import MigrationWriter

from container_manager.models import ContainerJob
from container_manager.statemachine import Graph, GraphError, TransitionConstraint

from .jobs import LEGAL, PAIRS, STATUSES

pytestmark = pytest.mark.without_database


class Stage(IntEnum):
    DRAFT = 10
    DONE = 20


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("transitions", "text"),
    [
        pytest.param({}, "no states", id="empty"),
        pytest.param({"a": ["b"]}, "'a' leads to 'b', which is not a state", id="unknown target"),
        pytest.param({"queued": ["runing"], "running": []}, "'queued' leads to 'runing'", id="typo"),
        pytest.param({"a": ["B"], "b": []}, "'a' leads to 'B'", id="case"),
        pytest.param({"a": ["b"], "b": [], "island": []}, "No path leads to 'island'", id="island"),
        pytest.param({"a": ["b"], "b": [], "c": ["d"], "d": ["c"]}, "No path leads to 'c', 'd'", id="ring apart"),
        pytest.param({"a": [], "b": []}, "No path leads to 'a', 'b'", id="no edges"),
        pytest.param({"a": ["a"]}, "'a' leads to itself", id="self loop"),
        pytest.param({"a": ["b", "b"], "b": []}, "'a' names a target twice", id="duplicate target"),
        pytest.param({Colour.RED: ["b"], "red": [], "b": []}, "'red' stands in the map twice", id="duplicate state"),
        pytest.param({"a": [1], 1: []}, "all strings or all integers: \\['a', 1\\]", id="mixed states"),
        pytest.param({1: ["1"]}, "1 leads to '1'", id="mixed target"),
        pytest.param({"a": [None]}, "not None", id="None"),
        pytest.param({1.5: []}, "not 1.5", id="float"),
        pytest.param({True: []}, "not True", id="bool"),
        pytest.param({"a": "bc", "b": [], "c": []}, "targets of 'a' must be a list, not 'bc'", id="text for a list"),
        pytest.param({"a": None}, "targets of 'a' must be a list, not None", id="None for a list"),
    ],
)
def test_an_invalid_map_is_refused_and_the_error_names_the_state(transitions: Any, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        Graph.declare(transitions)
    with pytest.raises(GraphError, match=text):
        TransitionConstraint(field="status", transitions=transitions, name="any")


@pytest.mark.parametrize(
    ("initial", "text"),
    [
        pytest.param([], "No initial state", id="none"),
        pytest.param(["x"], "Initial state 'x' is not a state", id="unknown"),
        pytest.param(["a", "a"], "name one twice: \\['a', 'a'\\]", id="duplicate"),
        pytest.param("a", "initial states must be a list, not 'a'", id="text for a list"),
        pytest.param(["b"], "No path leads to 'a'", id="a state nothing reaches"),
    ],
)
def test_invalid_initial_states_are_refused_and_the_error_names_them(initial: Any, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        Graph.declare({"a": ["b"], "b": ["c"], "c": ["b"]}, initial=initial)


@pytest.mark.parametrize(
    "transitions",
    [
        pytest.param({"only": []}, id="one state"),
        pytest.param({"open": ["shut"], "shut": ["open"]}, id="ring"),
        pytest.param({"a": ["c"], "b": ["c"], "c": []}, id="two starts"),
        pytest.param({"": ["x"], "x": []}, id="empty name"),
        pytest.param({-1: [0], 0: [1], 1: []}, id="negative"),
    ],
)
def test_a_valid_map_is_accepted(transitions: Any) -> None:
    assert Graph.declare(transitions).states == tuple(transitions)


def test_enum_members_in_a_map_become_their_plain_values() -> None:
    graph = Graph.declare({Stage.DRAFT: [Stage.DONE], Stage.DONE: []}, initial=[Stage.DRAFT])
    assert graph == Graph.declare({10: [20], 20: []}, initial=[10])
    assert [type(state) for state in graph.states] == [int, int]


def test_has_edge_agrees_with_the_map_for_every_pair() -> None:
    graph = Graph.declare(ContainerJob.VALID_TRANSITIONS)
    assert {pair for pair in PAIRS if graph.has_edge(*pair)} == LEGAL == set(graph.pairs)
    assert all((s in graph.sources(t)) == (t in graph.targets(s)) == ((s, t) in LEGAL) for s, t in PAIRS)
    assert sorted(STATUSES) == sorted(graph.states)
    assert [s for s in STATUSES if graph.is_terminal(s)] == ["completed", "cancelled"]


def test_an_unknown_state_has_no_edges_and_is_not_terminal() -> None:
    graph = Graph.declare({"a": ["b"], "b": []})
    assert graph.targets("x") == graph.sources("x") == ()
    assert not graph.has_edge("x", "a")
    assert not graph.is_terminal("x")


def test_changing_the_declared_map_does_not_change_the_graph() -> None:
    transitions = {"a": ["b"], "b": []}
    graph = Graph.declare(transitions)
    transitions["b"].append("a")
    assert graph.targets("b") == ()


RING = {"open": ["closed"], "closed": ["open", "archived"], "archived": []}


@pytest.mark.parametrize("keys", list(permutations(RING)), ids="-".join)
def test_a_map_of_cycles_is_valid_in_any_order(keys: tuple[str, ...]) -> None:
    assert Graph.declare({key: RING[key] for key in keys}).ordered() == Graph.declare(RING).ordered()


@pytest.mark.parametrize("keys", list(permutations("abcd")), ids="-".join)
def test_a_map_of_two_separate_cycles_is_refused_with_the_same_states_in_any_order(keys: tuple[str, ...]) -> None:
    rings = {"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}
    with pytest.raises(GraphError, match=r"No path leads to '[cd]', '[cd]'"):
        Graph.declare({key: rings[key] for key in keys})


def test_a_map_of_cycles_becomes_a_migration_that_can_be_read() -> None:
    constraint = TransitionConstraint(field="status", transitions=RING, name="any")
    text, imports = MigrationWriter.serialize(constraint)
    names: dict[str, Any] = {}
    exec("\n".join(imports), names)  # noqa: S102  # as Django imports a migration
    assert eval(text, names) == constraint  # noqa: S307


def test_another_order_of_the_same_map_makes_no_migration() -> None:
    first = TransitionConstraint(
        field="status", transitions={"a": ["b", "c"], "b": ["c"], "c": ["b"]}, initial=["a", "b"], name="any"
    )
    second = TransitionConstraint(
        field="status", transitions={"c": ["b"], "b": ["c"], "a": ["c", "b"]}, initial=["b", "a"], name="any"
    )
    assert first == second
    assert first.deconstruct() == second.deconstruct()


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_set_of_targets_has_the_same_migration_in_every_process(processes: int) -> None:
    program = (
        "import django\n"
        "from django.conf import settings\n"
        "from container_manager.statemachine import TransitionConstraint\n"
        "settings.configure()\n"
        "django.setup()\n"
        "targets = {'b', 'c', 'd', 'e'}\n"
        "constraint = TransitionConstraint(\n"
        "    field='status', transitions={'a': targets, **{t: targets - {t} for t in targets}},\n"
        "    initial=frozenset({'a', 'b', 'c'}), name='any')\n"
        "print(constraint.deconstruct()[2], constraint.graph.targets('a'), constraint.graph.initial)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(processes)
    }
    assert len(outputs) == 1
