"""The column of a name that the database compares: of an executor, a queue or a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField

from ..jobs.printable import validate_line

if TYPE_CHECKING:
    # Only the stubs have arguments.
    _CharField = CharField[str, str]
else:
    _CharField = CharField


class NameField(_CharField):
    """A CharField of one printable line, whose values are equal where Python says so, on every database.

    The usual collations of MariaDB and MySQL treat ``Default``, ``default`` and ``default `` as equal: a worker would
    claim the jobs of an executor that it does not know.
    """

    # For the state machine: its values are texts, which do not change in place.
    has_immutable_values: ClassVar[bool] = True
    default_validators = [*CharField.default_validators, validate_line]  # Django's own list

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        parameters: dict[str, Any] = {**super().db_parameters(connection)}
        if connection.vendor == "mysql":
            # Both are binary, and compare trailing spaces too (NO PAD).
            is_mariadb = getattr(connection, "mysql_is_mariadb", False)
            parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return parameters
