"""The graph of states and transitions: a value, validated when it is declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum

_TYPE_ERROR = "States must be all strings or all integers"

State = str | int


class GraphError(ValueError):
    """A graph is invalid; the message names the state."""


def plain(value: object) -> State:
    """Return a state without its enum wrapper.

    Raises GraphError unless it is a string or an integer.
    """
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise GraphError(f"{_TYPE_ERROR}, not {value!r}.")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """States and the edges between them. Their order has no meaning; error messages name states in it.

    ``initial``: the states that a new row may have; None means any.
    """

    edges: Mapping[State, tuple[State, ...]]
    initial: tuple[State, ...] | None = None
    _sources: Mapping[State, tuple[State, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _validate(self.edges, self.initial)
        sources = {state: tuple(s for s, targets in self.edges.items() if state in targets) for state in self.edges}
        object.__setattr__(self, "_sources", sources)

    @classmethod
    def declare(cls, transitions: Mapping[State, Iterable[State]], *, initial: Iterable[State] | None = None) -> Graph:
        """Build a graph from a map of state to target states, as plain values or enum members."""
        edges: dict[State, tuple[State, ...]] = {}
        for source, targets in transitions.items():
            state = plain(source)
            if state in edges:
                raise GraphError(f"State {state!r} stands in the map twice.")
            edges[state] = _states(targets, f"The targets of {state!r}")
        return cls(edges=edges, initial=None if initial is None else _states(initial, "The initial states"))

    def ordered(self) -> Graph:
        """Return the same graph in the order that migrations and triggers use."""
        edges = {state: tuple(sorted(self.edges[state], key=_order)) for state in sorted(self.edges, key=_order)}
        return Graph(edges=edges, initial=None if self.initial is None else tuple(sorted(self.initial, key=_order)))

    @property
    def states(self) -> tuple[State, ...]:
        return tuple(self.edges)

    @property
    def pairs(self) -> tuple[tuple[State, State], ...]:
        return tuple((source, target) for source, targets in self.edges.items() for target in targets)

    def targets(self, state: State) -> tuple[State, ...]:
        """Return the states that ``state`` may change to; empty for a terminal or an unknown one."""
        return self.edges.get(state, ())

    def sources(self, state: State) -> tuple[State, ...]:
        """Return the states that may change to ``state``."""
        return self._sources.get(state, ())

    def has_edge(self, source: State, target: State) -> bool:
        return target in self.edges.get(source, ())

    def is_terminal(self, state: State) -> bool:
        return state in self.edges and not self.edges[state]


def _states(values: Iterable[object], whose: str) -> tuple[State, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        # A string would be read as a list of letters.
        raise GraphError(f"{whose} must be a list, not {values!r}.")
    states = tuple(plain(value) for value in values)
    # A set has another order in each process.
    return tuple(sorted(states, key=_order)) if isinstance(values, Set) else states


def _order(state: State) -> tuple[str, State]:
    return (type(state).__name__, state)


def _validate(edges: Mapping[State, tuple[State, ...]], initial: tuple[State, ...] | None) -> None:
    if not edges:
        raise GraphError("The map has no states.")
    if len({type(state) for state in edges}) > 1:
        raise GraphError(f"{_TYPE_ERROR}: {list(edges)}.")
    for source, targets in edges.items():
        for target in targets:
            if target not in edges:
                raise GraphError(f"State {source!r} leads to {target!r}, which is not a state of the map.")
            if target == source:
                raise GraphError(f"State {source!r} leads to itself; staying is not a transition.")
        if len(set(targets)) != len(targets):
            raise GraphError(f"State {source!r} names a target twice: {list(targets)}.")
    for state in initial or ():
        if state not in edges:
            raise GraphError(f"Initial state {state!r} is not a state of the map.")
    if initial is not None and not initial:
        raise GraphError("No initial state: no row could ever be inserted.")
    if len(set(initial or ())) != len(initial or ()):
        raise GraphError(f"The initial states name one twice: {list(initial or ())}.")
    if unreachable := _unreachable(edges, initial):
        raise GraphError(f"No path leads to {', '.join(map(repr, unreachable))}.")


def _unreachable(edges: Mapping[State, tuple[State, ...]], initial: tuple[State, ...] | None) -> list[State]:
    """Return the states that no path leads to; the order of the map makes no difference."""
    if len(edges) == 1:
        return []
    if initial is not None:
        return _unseen(edges, initial)
    entered = {target for targets in edges.values() for target in targets}
    # Without declared initial states, the roots are the states with outgoing and without incoming edges.
    roots = tuple(state for state in edges if state not in entered and edges[state])
    if roots or not entered:
        return _unseen(edges, roots)
    # In a map of cycles, the root is the state that leads to the most others.
    return min((_unseen(edges, (state,)) for state in sorted(edges, key=_order)), key=len)


def _unseen(edges: Mapping[State, tuple[State, ...]], roots: tuple[State, ...]) -> list[State]:
    seen, waiting = set(roots), list(roots)
    while waiting:
        for target in edges[waiting.pop()]:
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return [state for state in edges if state not in seen]
