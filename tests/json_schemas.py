"""The JSON Schema of each verb's ``--json``, made of its declaration: ``python -m tests.json_schemas`` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from container_manager import cli

FOLDER = Path(cli.__file__).parent / "schemas"


def schemas() -> dict[str, Any]:
    """Return the schema of each verb that declares what it prints as JSON."""
    from container_manager.cli.verbs import VERBS

    return {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **msgspec.json.schema(verb.JSON, schema_hook=_choices),
        }
        for name, verb in VERBS.items()
        if hasattr(verb, "JSON")
    }


def _choices(choices: Any) -> dict[str, Any]:
    """Return the schema of Django's choices, whose class msgspec does not know."""
    return {"type": "string", "enum": choices.values}


def text(schema: Any) -> str:
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    import django

    django.setup()
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(text(schema), encoding="utf-8")
