"""Run a command with a Docker daemon beside it: ``python -m tests.docker -- pytest tests/docker``.

The daemon is started for the command, and has the test images; CM_TEST_DOCKER is its address. It nests with a database
server: ``python -m tests.servers postgresql -- python -m tests.docker -- pytest``.
"""

from __future__ import annotations

import os
import sys

from ..servers import end_when_told, run_command
from . import daemon, image


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] != "--":
        sys.exit("usage: python -m tests.docker -- COMMAND …")
    if obstacle := daemon.obstacle() or image.obstacle():
        sys.exit(f"No Docker daemon for tests here: {obstacle}.")
    end_when_told()
    with daemon.Daemon() as engine:
        image.import_images(engine.url)
        return run_command(arguments[1:], {**os.environ, "CM_TEST_DOCKER": engine.url})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
