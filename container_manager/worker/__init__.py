"""The worker: claim, start, observe, finish; reconcile with the database; stop gracefully."""

from .loop import ThreadFailed, WorkerLoop
from .worker_options import WorkerOptions

__all__ = ["ThreadFailed", "WorkerLoop", "WorkerOptions"]
