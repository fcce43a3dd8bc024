"""The worker: claim, start, observe, finish; reconcile with the database; stop gracefully."""

from .loop import ThreadFailed, WorkerLoop, WorkerOptions

__all__ = ["ThreadFailed", "WorkerLoop", "WorkerOptions"]
