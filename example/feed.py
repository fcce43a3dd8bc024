"""Enqueue jobs of several kinds, a few at once and then one every other second, so that there is something to watch."""

import random
import sys
import time
from datetime import timedelta
from typing import Any

import django

# A shell loop that prints a line at a time; what it is called with is how often, and how long each takes.
# Beside it, it says how far it has come, where an executor reads that.
_STEPS = (
    "sh -c 'for i in $(seq {0}); do echo step $i of {0}; "
    'echo $i/{0} step $i > "${{CONTAINER_MANAGER_PROGRESS:-/dev/null}}"; sleep {1}; done\''
)
# Name → how often it is drawn, and its fields.
_KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "monthly report": (8, {"command": _STEPS.format(8, 0.4), "queue": "reports", "labels": {"team": "finance"}}),
    "thumbnails": (16, {"command": "sh -c 'echo 24 images; sleep 1; echo done'", "queue": "images"}),
    "video": (2, {"command": _STEPS.format(45, 1), "queue": "images", "priority": 20, "labels": {"team": "media"}}),
    "import": (
        3,
        {"command": "sh -c 'echo row 17 is bad >&2; sleep 1; exit 3'", "queue": "reports", "max_retries": 1},
    ),
    "flaky call": (3, {"command": "sh -c 'test $CONTAINER_MANAGER_ATTEMPT -gt 1 || exit 7'", "max_retries": 2}),
    "too slow": (1, {"command": "sleep 600", "timeout_seconds": 10, "grace_seconds": 1, "max_retries": 0}),
    "no such program": (1, {"command": "no-such-program --help", "max_retries": 0}),
    "newsletter": (1, {"command": "echo Dear reader", "queue": "mail"}),
}
_FIRST, _PAUSE_SECONDS = 30, 2.0
# What waits is as much as workers have not come to do yet: no more of it is added.
_MOST_WAITING = 200


def main() -> int:
    django.setup()
    from django.utils import timezone

    from container_manager.models import ContainerJob
    from container_manager.queue import enqueue, pause_queue

    def feed(**more: Any) -> None:
        name = random.choices(list(_KINDS), [often for often, _ in _KINDS.values()])[0]  # noqa: S311  # no secret
        enqueue(name=name, actor="feeder", **_KINDS[name][1], **more)

    pause_queue("mail", by="feeder")
    if not ContainerJob.objects.filter(name="draft").exists():
        ContainerJob.objects.create_job(name="draft", command="echo Queue me", created_by="feeder")
    feed(scheduled_for=timezone.now() + timedelta(hours=1))
    for _ in range(_FIRST):
        feed()
    while True:
        time.sleep(_PAUSE_SECONDS)
        if len(ContainerJob.objects.ready().exclude(queue="mail").values_list("pk")[:_MOST_WAITING]) < _MOST_WAITING:
            feed()


if __name__ == "__main__":
    sys.exit(main())
