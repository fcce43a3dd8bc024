"""Three uses of jobs: a report that somebody waits for, a batch of images, and code that a user submits.

Each job is a program of `example/programs` that is passed as a word, so that any image with Python can run it.
"""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from django.conf import settings

from container_manager import queue
from container_manager.models import ContainerJob

PROGRAMS = Path(__file__).resolve().parent / "programs"
PYTHON_IMAGE = "python:3.13-slim"


def order_report(sales: Sequence[Mapping[str, object]], *, actor: object = None) -> ContainerJob:
    """Queue a report of sales by product, before all else; it is the job's output, as CSV."""
    return queue.enqueue(
        name="report",
        image=_image(),
        command=_python("report.py"),
        environment={"SALES": json.dumps(list(sales))},
        priority=80,
        timeout_seconds=60,
        actor=actor,
    )


def shrink_images(images: Iterable[Path], *, into: Path, actor: object = None) -> list[ContainerJob]:
    """Queue a job for each image, in a queue of their own that can be paused. A second run of one does no harm.

    Local processes read and write the files where they are. Containers need their folders as volumes
    (docs/howto/docker.md).
    """
    return queue.enqueue_many(
        [
            ContainerJob(
                name=f"shrink {image.name}",
                image=_image(),
                queue="images",
                command=_python("shrink.py", str(image), str(into / image.name)),
                labels={"batch": into.name},
                max_retries=2,
                timeout_seconds=300,
            )
            for image in images
        ],
        actor=actor,
    )


def run_users_code(code: str, *, user: object) -> ContainerJob:
    """Queue code that a user submits, with little of everything: no secrets, no network, no retry.

    It names an image, so that local processes refuse it: they would let it do all that the worker may do.
    """
    return queue.enqueue(
        name="user's code",
        queue="untrusted",
        image=PYTHON_IMAGE,
        command=shlex.join(["python", "-I", "-c", code]),
        memory_bytes=128 * 1024 * 1024,
        cpu_count=0.5,
        timeout_seconds=10,
        grace_seconds=0,
        max_retries=0,
        actor=user,
    )


def _image() -> str:
    """Return the image of our own programs; local processes have none."""
    return getattr(settings, "EXAMPLE_JOB_IMAGE", "")


def _python(program: str, *arguments: str) -> str:
    code = (PROGRAMS / program).read_text(encoding="utf-8")
    return shlex.join(["python" if _image() else sys.executable, "-I", "-c", code, *arguments])
