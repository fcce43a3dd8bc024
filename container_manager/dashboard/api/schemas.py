"""The JSON of the API, as JSON Schema: what OpenAPI's ``components`` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import models

from ...jobs.spec import CODE_FIELDS, PRIVATE_FIELDS, TEXT_MAPPINGS, JobSpec
from ...models import ContainerJob, JobLog, JobStatus
from ..job_acts import JobAct
from ..search import LIST_FIELDS

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


# By the type of a column, subclasses included.
_OF_TYPES: Mapping[type[models.Field[Any, Any]], Schema] = {
    models.CharField: TEXT,
    models.TextField: TEXT,
    models.UUIDField: UUID,
    models.DateTimeField: TIME,
    models.IntegerField: NUMBER,
    models.FloatField: REAL,
    models.BooleanField: FLAG,
    models.JSONField: {"type": "object"},
}


def _of_column(name: str) -> Schema:
    """Return the schema of a column of jobs."""
    column: Any = ContainerJob._meta.get_field(name)
    if name in TEXT_MAPPINGS:
        return TEXTS
    [schema] = [schema for kind, schema in _OF_TYPES.items() if isinstance(column, kind)]
    if column.choices:
        schema = {**schema, "enum": [*([""] if column.blank else []), *(value for value, _ in column.flatchoices)]}
    return or_null(schema) if column.null else schema


# The columns that are read for a list; the version is for who writes the status.
LISTED: Mapping[str, Schema] = {name: _of_column(name) for name in LIST_FIELDS if name != "status_version"}
_HIDDEN = "A value is null for who may not see environments."
_MASKED: Schema = {"type": "object", "additionalProperties": or_null(TEXT), "description": _HIDDEN}
_ERROR: Schema = {**or_null(TEXT), "description": "null for who may not see output, which it may quote."}
DETAILED: Mapping[str, Schema] = {
    **{name: _of_column(name) for name in JobSpec._fields},
    **LISTED,
    **dict.fromkeys(PRIVATE_FIELDS, _MASKED),
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
SUBMITTED: Mapping[str, Schema] = {
    name: _of_column(name) for name in (*JobSpec._fields, "scheduled_for") if name not in CODE_FIELDS
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
