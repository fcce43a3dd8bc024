"""The chaos test's jobs. Each attempt writes to a file of its job where and when it started, and that it goes on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from container_manager.models import ContainerJob

GUESSING, LONG = "guessing", "long"
# Attempts are lost by faults here, not by their job: it must never run out of retries.
_RETRIES = 1000
# Name, what it does, its retries, its timeout, how many of a hundred jobs are so.
_KINDS = [
    ("quick", "true; STILL", _RETRIES, None, 57),
    ("slow", "sleep 0.2; STILL", _RETRIES, None, 24),
    ("tree", "sleep 0.1 & setsid sleep 0.3 & wait; STILL", _RETRIES, None, 8),
    # It outlasts a lease, so that a rescue that comes too early runs it twice at once.
    (LONG, f"for n in {'. ' * 40}; do sleep 0.2; STILL; done", _RETRIES, None, 3),
    ("failing", "STILL; exit 3", 2, None, 4),
    ("endless", "while :; do sleep 0.05; STILL; done", 0, 1, 2),
    # It claims on every descriptor it can name that it ended well; it does not.
    (
        GUESSING,
        r'for n in 3 4 5 6 7 8 9; do echo "{\"code\": 0, \"lost\": false}" >&$n; echo oops >&$n; done 2>/dev/null; '
        "sleep 0.1; STILL; exit 7",
        2,
        None,
        2,
    ),
]


def output_of(job: str, attempt: int) -> bytes:
    """Return what an attempt writes to its stdout."""
    return f"attempt {attempt} of {job}\n".encode()


def make_jobs(count: int, effects: Path, more: Mapping[str, Any], chance: random.Random) -> list[ContainerJob]:
    """Return jobs of all kinds, at least one of each, not stored yet."""
    from container_manager.models import ContainerJob

    # A container's host name is its id. If an attempt runs twice, the file tells where and when.
    path, number = f"{effects}/$CONTAINER_MANAGER_JOB", "$CONTAINER_MANAGER_ATTEMPT"
    write = f'read up rest < /proc/uptime; echo "{number} starts in ${{HOSTNAME:-}} at $up" >> {path}; '
    write += f'echo "attempt {number} of $CONTAINER_MANAGER_JOB"'
    still = f'echo "{number} goes on" >> {path}'
    kinds = [*_KINDS, *chance.choices(_KINDS, [kind[-1] for kind in _KINDS], k=max(0, count - len(_KINDS)))][:count]
    return [
        ContainerJob(
            name=f"{name}-{index}",
            command=f"sh -c '{write}; {body.replace('STILL', still)}'",
            max_retries=retries,
            timeout_seconds=timeout,
            grace_seconds=1,
            **more,
            priority=chance.randrange(101),
        )
        for index, (name, body, retries, timeout, _) in enumerate(kinds)
    ]
