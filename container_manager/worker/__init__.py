"""The worker: claim, start, observe, finish; reconcile with the database; stop gracefully."""

from .loop import WorkerLoop, WorkerOptions

__all__ = ["WorkerLoop", "WorkerOptions"]
