"""Run a command with a Docker daemon beside it: ``python -m tests.docker -- pytest tests/docker``.

The daemon is started for the command, and has the test images; CM_TEST_DOCKER is its address. It nests with a database
server: ``python -m tests.servers postgresql -- python -m tests.docker -- pytest``. With ``podman`` before the ``--`` it
is podman's service.
"""

from __future__ import annotations

import os
import sys

from ..servers import end_when_told, run_command
from . import daemon, image, podman

_ENGINES = {"docker": (daemon.Daemon, daemon.obstacle), "podman": (podman.Podman, podman.obstacle)}


def main(arguments: list[str]) -> int:
    name = arguments.pop(0) if arguments and arguments[0] in _ENGINES else "docker"
    if len(arguments) < 2 or arguments[0] != "--":
        sys.exit(f"usage: python -m tests.docker [{'|'.join(_ENGINES)}] -- COMMAND …")
    engine, obstacle = _ENGINES[name]
    if why := obstacle() or image.obstacle():
        sys.exit(f"No {name} for tests here: {why}.")
    end_when_told()
    with engine() as running:
        image.import_images(running.url)
        return run_command(arguments[1:], {**os.environ, "CM_TEST_DOCKER": running.url})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
