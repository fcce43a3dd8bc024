"""`TransitionConstraint`: declares the map once, for forms, model and database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS
from django.db.models import BaseConstraint, Model, Value
from django.db.models.expressions import DatabaseDefault
from django.utils.translation import gettext_lazy as _

from .graph import Graph, State, plain
from .trigger_constraint import TriggerConstraint, column_of
from .triggers.dialect import Dialect, GuardSpec


def literal_default(value: object) -> object:
    """Return the constant of a ``db_default`` that stands for an attribute of a new instance; else the value itself."""
    if isinstance(value, DatabaseDefault):
        [expression] = value.get_source_expressions()
        if isinstance(expression, Value):
            return expression.value
    return value


class TransitionConstraint(TriggerConstraint):
    """Allow a field to change only along the edges of a map.

    ``transitions`` maps each state to the states it may change to. ``initial``: the states that a new row may have
    (None: any). ``violation_error_message``, if given, replaces the messages of `validate`; it may contain
    ``%(name)s`` (of the constraint) and ``%(target)s``. Raises GraphError if the map is invalid.
    """

    default_violation_code = "invalid_transition"
    violation_error_code: str

    def __init__(
        self,
        *,
        field: str,
        transitions: Mapping[State, Iterable[State]],
        name: str,
        initial: Iterable[State] | None = None,
        violation_error_code: str | None = None,
        violation_error_message: str | None = None,
    ) -> None:
        self.field = field
        self.graph = Graph.declare(transitions, initial=initial)
        super().__init__(
            name=name,
            violation_error_code=violation_error_code or self.default_violation_code,
            violation_error_message=violation_error_message,
        )

    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def create_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        return dialect.create_guard(self.spec(model))

    def drop_statements(self, model: type[Model], dialect: Dialect) -> list[str]:
        return dialect.drop_guard(self.spec(model))

    def validate(
        self,
        model: type[Model],
        instance: Model,
        exclude: Iterable[str] | None = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        """Raise ValidationError (code ``invalid_transition``) if saving the instance would be refused."""
        if exclude and self.field in exclude:
            return
        target = self._valid_state(getattr(instance, self.field))
        if instance._state.adding:
            if self.graph.initial is not None and target not in self.graph.initial:
                raise self._error(_("A new row cannot be %(target)s."), target=target)
            return
        rows = model._base_manager.using(using).filter(pk=instance.pk)
        source = rows.values_list(self.field, flat=True).first()
        if source is not None and source != target and not self.graph.has_edge(source, target):
            raise self._error(
                _("Invalid transition from %(source)s to %(target)s. Valid transitions: %(allowed)s"),
                source=source,
                target=target,
                allowed=list(self.graph.targets(source)),
            )

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        # In one order, since another order of the same map is no change to migrate.
        graph = self.graph.ordered()
        kwargs.update(field=self.field, transitions={s: list(t) for s, t in graph.edges.items()})
        if graph.initial is not None:
            kwargs["initial"] = list(graph.initial)
        if kwargs.get("violation_error_code") == self.default_violation_code:
            del kwargs["violation_error_code"]
        return path, args, kwargs

    def clone(self) -> Self:
        """Return a copy with the states in the declared order, that of error messages and diagrams."""
        copy: Self = super().clone()
        copy.graph = self.graph
        return copy

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TransitionConstraint):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    __hash__ = TriggerConstraint.__hash__

    def spec(self, model: type[Model]) -> GuardSpec:
        column = column_of(model, self.field)
        # The SQL of the model and of its migration must be identical.
        graph = self.graph.ordered()
        return GuardSpec(name=self.name, primary_key=column_of(model, model._meta.pk.name), column=column, graph=graph)

    def _valid_state(self, value: object) -> State:
        try:
            state = plain(literal_default(value))
        except ValueError:
            state = ""
        if state not in self.graph.edges:
            raise self._error(
                _("Unknown status %(target)s. Known: %(states)s"), target=repr(value), states=list(self.graph.states)
            )
        return state

    def _error(self, message: Any, **params: Any) -> ValidationError:
        if self.violation_error_message != BaseConstraint.default_violation_error_message:
            message, params = self.violation_error_message, {"name": self.name, **params}
        return ValidationError({self.field: ValidationError(message, code=self.violation_error_code, params=params)})
