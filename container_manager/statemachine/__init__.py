"""A state machine for any Django model, enforced by the database.

An app of its own, independent of the jobs: put ``"container_manager.statemachine"`` into ``INSTALLED_APPS``, declare a
`TransitionConstraint` and, for a history, a `TransitionJournal` in ``Meta.constraints``, and derive the model from
`StateMachineModel` (``container_manager.statemachine.model``).
"""

from .constraint import TransitionConstraint
from .exceptions import InvalidTransition, MissingRow, StaleTransition, TransitionError, UnknownState, UnsavedInstance
from .graph import Graph, GraphError
from .journal import JournalTable, RowIdField, TransitionJournal
from .machine import Effect, Transition
from .restoring import restoring

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
    "restoring",
]
