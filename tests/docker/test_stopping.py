"""What a stop sends to whom: the image's signal, to the command alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from container_manager.executors.base import ExitStatus
from container_manager.testing.conformance import ended, output, text, wait_until

from .docker_harness import DockerHarness
from .image import IMAGE

_SIGNAL_IMAGE = "cm-test:stopsignal"


def program(seconds: float) -> str:
    """Return a program that needs this time to end well."""
    trap = f'trap "sleep {seconds}; echo tidy; exit 0" TERM'
    return f"sh -c '{trap}; echo up > $EFFECTS/up; while :; do sleep 0.05; done'"


_PROGRAM = program(0.1)


def stopped(harness: DockerHarness, script: str, *, grace_seconds: float = 30, **fields: Any) -> tuple[ExitStatus, str]:
    """Return how a script ends that is stopped once it has written a file, and what it has printed."""
    executor = harness.executor(images=[IMAGE, _SIGNAL_IMAGE])
    try:
        spec, up = harness.spec(script, **fields), harness.effects() / "up"
        handle = executor.submit(spec)
        wait_until(executor, up.exists)
        executor.stop(handle, grace_seconds)
        return ended(executor, spec.key), text(output(executor, handle)).decode()
    finally:
        executor.close()


@pytest.mark.shows("howto/docker.md#stop-a-job")
@pytest.mark.parametrize(
    "script",
    [f"exec {_PROGRAM}", f"trap 'kill $!; wait $!; exit $?' TERM; {_PROGRAM} & wait $!"],
    ids=["exec", "trap"],
)
def test_a_program_stops_cleanly_if_its_shell_is_replaced_or_forwards_the_signal(
    harness: DockerHarness, script: str
) -> None:
    status, printed = stopped(harness, script)
    assert (status.code, printed) == (0, "tidy\n")


@pytest.mark.shows("howto/docker.md#stop-a-job")
@pytest.mark.parametrize("environment", [{}, {"TINI_KILL_PROCESS_GROUP": "1"}], ids=["child", "group"])
def test_a_program_is_killed_without_a_term_signal_as_soon_as_its_shell_ends(
    harness: DockerHarness, environment: dict[str, str]
) -> None:
    """Nor would it help to have the init process tell all: it ends with the shell, and everything with it."""
    # Where it is told too, it needs longer than its end may take on a busy machine.
    status, printed = stopped(harness, f"{program(25)}; echo more", environment=environment)
    assert (status.signal, printed) == (15, "")


@pytest.fixture
def signal_image(docker_url: str) -> Iterator[str]:
    """An image whose commands are to be stopped by another signal than TERM."""
    api = docker.APIClient(docker_url)
    dockerfile = io.BytesIO(f"FROM {IMAGE}\nSTOPSIGNAL SIGINT\n".encode())
    list(api.build(fileobj=dockerfile, tag=_SIGNAL_IMAGE, decode=True))
    yield _SIGNAL_IMAGE
    api.remove_image(_SIGNAL_IMAGE, force=True)
    api.close()


@pytest.mark.shows("howto/docker.md#stop-a-job")
def test_a_stop_sends_the_images_signal_then_kill(harness: DockerHarness, signal_image: str) -> None:
    script = (
        "trap 'echo int; exit 3' INT; trap 'echo term; exit 4' TERM; touch $EFFECTS/up; while :; do sleep 0.05; done"
    )
    status, printed = stopped(harness, script, image=signal_image)
    assert (status.code, printed) == (3, "int\n")
    (harness.effects() / "up").unlink()
    deaf = "trap 'echo int' INT; touch $EFFECTS/up; while :; do sleep 0.05; done"
    status, printed = stopped(harness, deaf, image=signal_image, grace_seconds=1)
    assert (status.signal, printed) == (9, "int\n")
