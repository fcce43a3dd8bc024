"""The expressions of a search that the ORM has none for: what it writes otherwise is served by no index."""

from __future__ import annotations

from typing import Any

from django.db.models import BooleanField, F, Func, Lookup


class Holds(Lookup):
    """A condition as it is: a filter compares any expression but a lookup with True, which no index serves."""

    lookup_name = "holds"
    prepare_rhs = False

    def __init__(self, condition: Func) -> None:
        super().__init__(condition, True)

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        sql, params = self.process_lhs(compiler, connection)
        return sql, tuple(params)


class RowComparison(Func):
    """``(a, b) < (x, y)``: with OR instead, a database reads all rows of an index before the place."""

    output_field = BooleanField()

    def __init__(self, *expressions: Any, operator: str) -> None:
        super().__init__(*expressions)
        self.operator = operator

    def as_sql(self, compiler: Any, connection: Any, **_options: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        parts = [compiler.compile(expression) for expression in self.source_expressions]
        a, b, x, y = (sql for sql, _ in parts)
        return f"({a}, {b}) {self.operator} ({x}, {y})", [value for _, values in parts for value in values]


class Among(Func):
    """``status IN (…)`` as in the condition of a partial index: SQLite compares it word by word, without parameters."""

    output_field = BooleanField()

    def __init__(self, statuses: tuple[str, ...]) -> None:
        super().__init__(F("status"))
        self.statuses = statuses

    def as_sql(self, compiler: Any, connection: Any, **_options: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        column, params = compiler.compile(self.source_expressions[0])
        return f"{column} IN ({', '.join(repr(str(status)) for status in self.statuses)})", list(params)
