"""The router of Django's documentation, for tests of a primary database with replicas."""

from __future__ import annotations

from typing import Any


class PrimaryReplicaRouter:
    """``read_from`` are the aliases to read from in turn."""

    read_from = ["replica"]

    def db_for_read(self, model: Any, **hints: Any) -> str:
        self.read_from.append(self.read_from.pop(0))
        return self.read_from[-1]

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool:
        return True
