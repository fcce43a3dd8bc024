"""``manage.py statemachine``, also for projects that install only ``container_manager``."""

from ...statemachine.management.commands.statemachine import Command

__all__ = ["Command"]
