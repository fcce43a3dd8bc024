"""The verbs of the ``container`` command, a module each."""

from types import ModuleType

from . import cancel, diagram, doctor, executors, history, logs, prune, ps, queue, retry, run, submit, triggers, worker

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
    "executors": executors,
    "prune": prune,
    "doctor": doctor,
    "diagram": diagram,
    "triggers": triggers,
}
