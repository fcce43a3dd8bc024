"""A state machine for any Django model, held by the database.

Independent of the rest of this app: declare a `TransitionConstraint` and, for a history, a `TransitionJournal` in
``Meta.constraints``, and derive the model from `StateMachineModel` (``container_manager.statemachine.model``).
"""

from .constraint import TransitionConstraint
from .exceptions import InvalidTransition, MissingRow, StaleTransition, TransitionError, UnknownState, UnsavedInstance
from .graph import Graph, GraphError
from .journal import JournalTable, RowIdField, TransitionJournal
from .machine import Effect, Transition

__all__ = [
    "Effect",
    "Graph",
    "GraphError",
    "InvalidTransition",
    "JournalTable",
    "MissingRow",
    "RowIdField",
    "StaleTransition",
    "Transition",
    "TransitionConstraint",
    "TransitionError",
    "TransitionJournal",
    "UnknownState",
    "UnsavedInstance",
]
