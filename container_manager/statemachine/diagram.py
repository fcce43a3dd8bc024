"""Draw a graph as Mermaid, which many document viewers render, or as DOT for Graphviz."""

from __future__ import annotations

from .graph import Graph, State

_CURRENT_FILL = "#ffd54f"


def mermaid(graph: Graph, *, current: State | None = None) -> str:
    """Return a Mermaid state diagram, with ``current`` marked if it is a state of the graph."""
    names = {state: f"s{number}" for number, state in enumerate(graph.states)}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_entities(state)}" as {name}' for state, name in names.items()]
    lines += [f"    [*] --> {names[state]}" for state in starts(graph)]
    lines += [f"    {names[source]} --> {names[target]}" for source, target in graph.pairs]
    lines += [f"    {names[state]} --> [*]" for state in graph.states if graph.is_terminal(state)]
    if current in names:
        lines += [f"    classDef current fill:{_CURRENT_FILL}", f"    class {names[current]} current"]
    return "\n".join(lines)


def dot(graph: Graph, *, current: State | None = None) -> str:
    """Return a Graphviz digraph; starts are bold, terminal states have a double border, ``current`` is filled."""
    lines = ["digraph transitions {", "    rankdir=LR;", "    node [shape=box];"]
    lines += [f'    "{_escaped(state)}" [{_look(graph, state, current)}];' for state in graph.states]
    lines += [f'    "{_escaped(source)}" -> "{_escaped(target)}";' for source, target in graph.pairs]
    return "\n".join([*lines, "}"])


def starts(graph: Graph) -> tuple[State, ...]:
    """Return the initial states: those declared, or else those without an incoming edge."""
    if graph.initial is not None:
        return graph.initial
    entered = {target for _, target in graph.pairs}
    return tuple(state for state in graph.states if state not in entered)


def _look(graph: Graph, state: State, current: State | None) -> str:
    styles = ["rounded"]
    styles += ["bold"] if state in starts(graph) else []
    styles += ["filled"] if state == current else []
    look = [f'style="{",".join(styles)}"']
    look += ["peripheries=2"] if graph.is_terminal(state) else []
    look += [f'fillcolor="{_CURRENT_FILL}"'] if state == current else []
    return ", ".join(look)


def _escaped(state: State) -> str:
    return str(state).replace("\\", "\\\\").replace('"', '\\"')


def _entities(state: State) -> str:
    # Quoted texts in Mermaid have no escapes, only entities: #quot;, and #35; for "#" itself.
    return str(state).replace("#", "#35;").replace('"', "#quot;")


# What draws a graph, by the name of its format.
FORMATS = {"mermaid": mermaid, "dot": dot}
