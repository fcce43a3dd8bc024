"""The JSON of the API, as JSON Schema: what OpenAPI's ``components`` has."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ...jobs.spec import JSON_FIELDS, JobSpec
from ...models import FailureReason, JobLog, JobStatus, UniqueUntil
from ..job_acts import JobAct

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
REAL: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
STATUS: Schema = {"type": "string", "enum": JobStatus.values}
JOB_ACT: Schema = {"type": "string", "enum": [act.value for act in JobAct]}
REASON: Schema = {"type": "string", "description": "Why; kept in the journal."}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def record(fields: Mapping[str, Schema], *, optional: frozenset[str] = frozenset()) -> Schema:
    """Return the schema of an object with these fields and no others."""
    required = [name for name in fields if name not in optional]
    base: dict[str, Any] = {"type": "object", "properties": dict(fields), "additionalProperties": False}
    return {**base, "required": required} if required else base


# In the order of the answers.
LISTED: Mapping[str, Schema] = {
    "id": UUID,
    "name": TEXT,
    "status": STATUS,
    "status_changed_at": or_null(TIME),
    "queue": TEXT,
    "executor": TEXT,
    "image": TEXT,
    "priority": NUMBER,
    "labels": TEXTS,
    "created_at": TIME,
    "created_by": TEXT,
    "scheduled_for": or_null(TIME),
    "queued_at": or_null(TIME),
    "launched_at": or_null(TIME),
    "completed_at": or_null(TIME),
    "attempt": NUMBER,
    "retry_count": NUMBER,
    "max_retries": NUMBER,
    "exit_code": or_null(NUMBER),
    "failure_reason": {"type": "string", "enum": ["", *FailureReason.values]},
    "worker": TEXT,
    "origin": or_null(UUID),
}
_HIDDEN = "A value is null for who may not see environments."
_MASKED: Schema = {"type": "object", "additionalProperties": or_null(TEXT), "description": _HIDDEN}
_ERROR: Schema = {**or_null(TEXT), "description": "null for who may not see output, which it may quote."}
MASKED_FIELDS = ("environment", "secrets", "secret_files")


def _of_type(hint: Any) -> Schema:
    """Return the schema of a type in the list of a job's fields."""
    types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    [own] = [each for each in types if each is not NoneType]
    schema = next((schema for kind, schema in _OF_TYPES.items() if own is kind), {"type": "object"})
    return or_null(schema) if NoneType in types else schema


# Any other type is a mapping.
_OF_TYPES: Mapping[type, Schema] = {str: TEXT, int: NUMBER, float: REAL, bool: FLAG}
DETAILED: Mapping[str, Schema] = {
    **{name: _of_type(hint) for name, hint in get_type_hints(JobSpec).items()},
    **LISTED,
    **dict.fromkeys(MASKED_FIELDS, _MASKED),
    "unique_until": {"type": "string", "enum": UniqueUntil.values},
    "last_error": _ERROR,
    "status_changed_by": TEXT,
    "status_changed_reason": TEXT,
    "acts": {**list_of(JOB_ACT), "description": "What may be done now; kill only where something runs."},
}
TRANSITION: Mapping[str, Schema] = {
    "id": NUMBER,
    "from_status": STATUS,
    "to_status": STATUS,
    "at": TIME,
    "actor": TEXT,
    "reason": TEXT,
}
_PROGRESS: Schema = {
    "anyOf": [record({"done": NUMBER, "total": NUMBER, "text": TEXT}), {"type": "null"}],
    "description": "How far it has come, as it says itself; null for who may not see output.",
}
ATTEMPT: Mapping[str, Schema] = {
    "number": NUMBER,
    "worker": TEXT,
    "executor": TEXT,
    "engine": TEXT,
    "waiting_for": TEXT,
    "launched_at": TIME,
    "finished_at": or_null(TIME),
    "exit_code": or_null(NUMBER),
    "signal": or_null(NUMBER),
    "reason": TEXT,
    "message": _ERROR,
    "peak_memory_bytes": or_null(NUMBER),
    "cpu_seconds": or_null(REAL),
    "result": {"description": "What the command has handed out, any JSON value; null for who may not see output."},
    "progress": _PROGRESS,
}
BULK_ACT: Mapping[str, Schema] = {
    "id": UUID,
    "act": JOB_ACT,
    "search": TEXT,
    "reason": TEXT,
    "actor": TEXT,
    "examined": NUMBER,
    "changed": NUMBER,
    "refused": {"type": "object", "additionalProperties": NUMBER, "description": "How many jobs, by reason."},
    "created_at": TIME,
    "finished_at": or_null(TIME),
    "note": {"type": "string", "description": "Why it ended early; empty if it did not."},
}
# Which function of the project is run is for code of the project to say.
_SPEC_TYPES: Mapping[str, Schema] = {
    name: DETAILED[name] for name in JobSpec._fields if name not in ("task", "task_arguments")
}
SUBMITTED: Mapping[str, Schema] = {
    **_SPEC_TYPES,
    **{name: TEXTS for name in JSON_FIELDS if name in _SPEC_TYPES and name != "container"},
    "scheduled_for": or_null(TIME),
}

COMPONENTS: Mapping[str, Schema] = {
    "Error": record(
        {"code": TEXT, "message": TEXT, "fields": {"type": "object", "additionalProperties": list_of(TEXT)}},
        optional=frozenset({"fields"}),
    ),
    "ListedJob": record(LISTED),
    "Job": record(DETAILED),
    "Page": record(
        {
            "jobs": list_of(ref("ListedJob")),
            "next": {"type": "string", "description": "The cursor of the next page; empty if there is none."},
            "previous": {"type": "string", "description": "The cursor of the page before; empty if there is none."},
            "searched_until": {
                **or_null(TIME),
                "description": "How far back the search has come, if jobs beyond were not examined: go on with next.",
            },
        }
    ),
    "Count": record({"number": NUMBER, "is_more": FLAG}),
    "Transitions": record({"transitions": list_of(record(TRANSITION)), "next": or_null(NUMBER)}),
    "Attempts": record({"attempts": list_of(record(ATTEMPT)), "next": or_null(NUMBER)}),
    "Log": record(
        {
            "attempt": NUMBER,
            "entries": list_of(
                record(
                    {
                        "sequence": NUMBER,
                        "stream": {"type": "string", "enum": JobLog.Stream.values},
                        "text": {"type": "string", "description": "UTF-8; what is none is U+FFFD."},
                    }
                )
            ),
            "next": {"type": "integer", "description": "Give this as after to go on."},
            "is_more": {"type": "boolean", "description": "Whether there is more already."},
            "is_over": {"type": "boolean", "description": "Whether the attempt has finished."},
        }
    ),
    "Explanation": record({"code": TEXT, "summary": TEXT, "evidence": list_of(TEXT), "next_step": TEXT}),
    "NewJob": record(SUBMITTED, optional=frozenset(SUBMITTED)),
    "JobAct": record({"act": JOB_ACT, "reason": REASON}, optional=frozenset({"reason"})),
    "SelectedAct": record({"jobs": list_of(UUID), "act": JOB_ACT, "reason": REASON}, optional=frozenset({"reason"})),
    "Acted": record({"changed": NUMBER, "refused": {"type": "object", "additionalProperties": NUMBER}}),
    "NewBulkAct": record({"search": TEXT, "act": JOB_ACT, "reason": REASON}, optional=frozenset({"reason"})),
    "BulkAct": record(BULK_ACT),
    "BulkActs": record({"bulk_acts": list_of(ref("BulkAct"))}),
    "Queues": record(
        {
            "queues": list_of(
                record(
                    {
                        "queue": TEXT,
                        "paused": FLAG,
                        "queued": NUMBER,
                        "scheduled": NUMBER,
                        "running": NUMBER,
                        "retrying": NUMBER,
                        "oldest": or_null(TIME),
                        "unserved": list_of(TEXT),
                        "finished": {"type": "object", "additionalProperties": NUMBER},
                    }
                )
            )
        }
    ),
    "QueueAct": record(
        {"queue": TEXT, "act": {"type": "string", "enum": ["pause", "resume"]}, "reason": REASON},
        optional=frozenset({"reason"}),
    ),
    "Changed": record({"changed": FLAG}),
    "Workers": record(
        {
            "workers": list_of(
                record(
                    {
                        "id": TEXT,
                        "host": TEXT,
                        "pid": NUMBER,
                        "queues": list_of(TEXT),
                        "executors": list_of(TEXT),
                        "slots": NUMBER,
                        "started_at": TIME,
                        "lease_expires_at": TIME,
                        "is_live": FLAG,
                        "busy": {"type": "integer", "description": "Its open attempts."},
                        "jobs": {**list_of(UUID), "description": "Those of them whose jobs the user may see."},
                    }
                )
            )
        }
    ),
}
