"""Print what a worker is notified of while a job is queued and cancelled: ``python -m tests.notification_listener``."""

from __future__ import annotations

import sys
from queue import SimpleQueue

import django
from django.db import connection

from .polling import PATIENCE_SECONDS

django.setup()


def main() -> None:
    from container_manager.models import ContainerJob
    from container_manager.store.notifications import Listener

    hints: SimpleQueue[str] = SimpleQueue()
    listener = Listener("default", hints.put, answer_seconds=PATIENCE_SECONDS)
    listener.start()
    try:
        # It hints of each once when it has begun to listen.
        for _ in range(2):
            hints.get(timeout=PATIENCE_SECONDS)
        job = ContainerJob.objects.create(command="true")
        job.mark_as_queued()
        heard = [hints.get(timeout=PATIENCE_SECONDS)]
        job.mark_as_cancelled()
        heard.append(hints.get(timeout=PATIENCE_SECONDS))
        connection.ensure_connection()
        sys.stdout.write(f"{type(connection.connection).__module__.partition('.')[0]} {' '.join(heard)}\n")
    finally:
        listener.stop()


if __name__ == "__main__":
    main()
