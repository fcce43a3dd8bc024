"""Compare the database's triggers with the state machine, or reinstall them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.db import connections, router

from ..statemachine.trigger_constraint import trigger_constraints
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--install", action="store_true", help="Install what is missing or differs.")


def run(options: Mapping[str, Any], out: Output) -> int:
    using = options["database"]
    connection = connections[using]
    drifted = 0
    for model in apps.get_models():
        if not (model._meta.managed and router.allow_migrate_model(using, model)):
            continue
        for constraint in trigger_constraints(model):
            names = constraint.drift(model, connection)
            if not names:
                out.write(f"{model._meta.label}: {constraint.name} is as the map says\n")
            elif options["install"]:
                constraint.install(model, connection)
                out.write(f"{model._meta.label}: {constraint.name} installed\n")
            else:
                drifted += 1
                out.write(f"{model._meta.label}: {constraint.name} is missing or differs: {', '.join(names)}\n")
    return 1 if drifted else 0
