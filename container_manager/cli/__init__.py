"""The verbs of the ``container`` command, a module each."""

from types import ModuleType

from . import cancel, diagram, history, logs, ps, retry, run, submit, triggers, worker

VERBS: dict[str, ModuleType] = {
    "run": run,
    "submit": submit,
    "worker": worker,
    "ps": ps,
    "logs": logs,
    "history": history,
    "cancel": cancel,
    "retry": retry,
    "diagram": diagram,
    "triggers": triggers,
}
