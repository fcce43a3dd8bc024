"""The JSON Schema of each verb's ``--json``, made of its declaration: ``python -m tests.json_schemas`` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from container_manager import cli

FOLDER = Path(cli.__file__).parent / "schemas"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, Any]:
    """Return the schema of each verb that declares what it prints as JSON."""
    from container_manager.cli.verbs import VERBS

    declared = {name: verb.JSON for name, verb in VERBS.items() if hasattr(verb, "JSON")}
    return {name: {"$schema": _DIALECT, **_complete(msgspec.json.schema(shape))} for name, shape in declared.items()}


def _complete(schema: Any) -> Any:
    """Return a schema in which each object has all its properties: a value that has a default is printed too."""
    if isinstance(schema, list):
        return [_complete(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _complete(value) for name, value in schema.items() if name != "default"}
    if isinstance(properties := schema.get("properties"), dict):
        found["required"] = sorted(properties)
    if isinstance(words := schema.get("description"), str):
        found["description"] = " ".join(words.split())
    return found


def text(schema: Any) -> str:
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    import django

    django.setup()
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(text(schema), encoding="utf-8")
