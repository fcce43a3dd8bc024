"""`restoring`: insert rows that are past their initial state, as a restore or a test does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import Model

from .constraint import TransitionConstraint
from .triggers import dialect_for
from .triggers.dialect import GuardSpec


@contextmanager
def restoring(*, using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """Let this connection insert rows in any state of their map; the block is a transaction.

    Only ``initial`` is suspended: an UPDATE is judged as ever. Other connections see no difference.
    """
    with restoring_rows(apps.get_models(), using=using):
        yield


@contextmanager
def restoring_rows(models: Iterable[type[Model]], *, using: str) -> Iterator[None]:
    """Do the same; of other models' tables it is undefined whether they are held."""
    connection = connections[using]
    with transaction.atomic(using=using), dialect_for(connection).restoring(connection, list(_guards(models))):
        yield


def _guards(models: Iterable[type[Model]]) -> Iterator[tuple[str, GuardSpec]]:
    for model in models:
        for constraint in model._meta.constraints:
            if isinstance(constraint, TransitionConstraint) and constraint.graph.initial is not None:
                yield model._meta.db_table, constraint.spec(model)
