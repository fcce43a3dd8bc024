"""The verbs of the ``container`` command, a module each."""

from types import ModuleType

from . import (
    cancel_command,
    diagram_command,
    doctor_command,
    executors_command,
    explain_command,
    history_command,
    logs_command,
    prune_command,
    ps_command,
    queue_command,
    retry_command,
    run_command,
    run_task_command,
    show_command,
    stats_command,
    submit_command,
    top_command,
    triggers_command,
    worker_command,
)

VERBS: dict[str, ModuleType] = {
    "run": run_command,
    "submit": submit_command,
    "worker": worker_command,
    "ps": ps_command,
    "show": show_command,
    "explain": explain_command,
    "logs": logs_command,
    "history": history_command,
    "cancel": cancel_command,
    "retry": retry_command,
    "queue": queue_command,
    "stats": stats_command,
    "top": top_command,
    "executors": executors_command,
    "prune": prune_command,
    "doctor": doctor_command,
    "diagram": diagram_command,
    "triggers": triggers_command,
    "run-task": run_task_command,
}
