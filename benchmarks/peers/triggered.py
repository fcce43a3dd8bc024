"""django-pgtrigger's FSM trigger, on PostgreSQL only."""

from __future__ import annotations

import pgtrigger

from container_manager.models import JOB_TRANSITIONS

from .columns import JobColumns


class TriggeredJob(JobColumns):
    class Meta(JobColumns.Meta):
        triggers = [
            pgtrigger.FSM(
                name="transitions",
                field="status",
                transitions=[
                    (str(source), str(target)) for source, targets in JOB_TRANSITIONS.items() for target in targets
                ],
            )
        ]
