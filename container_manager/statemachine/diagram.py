"""Draw a map: as Mermaid, which many documents show as they are, and as DOT for Graphviz."""

from __future__ import annotations

from .graph import Graph, State

_CURRENT_FILL = "#ffd54f"


def mermaid(graph: Graph, *, current: State | None = None) -> str:
    """Return a Mermaid state diagram; ``current`` is marked."""
    names = {state: f"s{number}" for number, state in enumerate(graph.states)}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_escaped(state)}" as {name}' for state, name in names.items()]
    lines += [f"    [*] --> {names[state]}" for state in starts(graph)]
    lines += [f"    {names[source]} --> {names[target]}" for source, target in graph.pairs]
    lines += [f"    {names[state]} --> [*]" for state in graph.states if graph.is_terminal(state)]
    if current is not None:
        lines += [f"    classDef current fill:{_CURRENT_FILL}", f"    class {names[current]} current"]
    return "\n".join(lines)


def dot(graph: Graph, *, current: State | None = None) -> str:
    """Return a Graphviz digraph; terminal states have a double border, ``current`` is filled."""
    lines = ["digraph transitions {", "    rankdir=LR;", "    node [shape=box, style=rounded];"]
    for state in graph.states:
        marks = ["peripheries=2"] if graph.is_terminal(state) else []
        if state == current:
            marks.append(f'style="rounded,filled", fillcolor="{_CURRENT_FILL}"')
        lines.append(f'    "{_escaped(state)}"' + (f" [{', '.join(marks)}]" if marks else "") + ";")
    lines += [f'    "{_escaped(source)}" -> "{_escaped(target)}";' for source, target in graph.pairs]
    return "\n".join([*lines, "}"])


def starts(graph: Graph) -> tuple[State, ...]:
    """Return the states a row begins in: those declared, else those that nothing leads to."""
    if graph.initial is not None:
        return graph.initial
    entered = {target for _, target in graph.pairs}
    return tuple(state for state in graph.states if state not in entered)


def _escaped(state: State) -> str:
    return str(state).replace("\\", "\\\\").replace('"', '\\"')
