"""The verbs of the ``container`` command, a module each."""

from types import ModuleType

from . import cancel, diagram, doctor, history, logs, prune, ps, queue, retry, run, submit, triggers, worker

VERBS: dict[str, ModuleType] = {
    "run": run,
    "submit": submit,
    "worker": worker,
    "ps": ps,
    "logs": logs,
    "history": history,
    "cancel": cancel,
    "retry": retry,
    "queue": queue,
    "prune": prune,
    "doctor": doctor,
    "diagram": diagram,
    "triggers": triggers,
}
