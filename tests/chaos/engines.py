"""The engines of the chaos test: local processes, or containers of a daemon that is killed and restarted too."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

INSTALL = "chaos"
_AWAY_SECONDS = (0.0, 4.0)
_KILLED_SHARE = 0.6


class Processes:
    """Local processes. They end with their workers, and there is no daemon that could be killed."""

    between_faults = (0.2, 0.8)
    fault_share = 0.0
    executors: dict[str, Any] = {}
    job: dict[str, Any] = {}

    def __init__(self, effects: Path, chance: random.Random) -> None:
        self.problems: list[str] = []

    def start(self) -> None: ...

    def strike(self) -> str:
        return ""

    def recover(self) -> None: ...

    def left(self) -> list[str]:
        """Return what the engine still holds."""
        return []

    def stop(self) -> None: ...


class Containers:
    """Containers of a Docker daemon of its own; whether they survive it (live-restore) is random."""

    # A container takes a tenth of a second or more: with more frequent faults none would end.
    between_faults = (0.3, 1.3)
    fault_share = 0.15

    def __init__(self, effects: Path, chance: random.Random) -> None:
        from ..docker.daemon import Daemon
        from ..docker.image import IMAGE

        self._random, self._image = chance, IMAGE
        self.live_restore = chance.random() < 0.5
        self.daemon = Daemon(live_restore=self.live_restore)
        self.problems: list[str] = []
        self._away: threading.Thread | None = None
        # Root in a container without capabilities cannot write to a folder that is closed to others.
        effects.chmod(0o777)
        volumes = {"effects": {"source": str(effects), "read_only": False, "allow_root": True}}
        options = {"base_url": self.daemon.url, "images": [IMAGE], "volumes": volumes}
        backend = "container_manager.executors.docker.DockerExecutor"
        self.executors = {"default": {"BACKEND": backend, "OPTIONS": options}}
        self.job = {"image": IMAGE, "container": {"volumes": {"effects": str(effects)}}}

    def start(self) -> None:
        from ..docker.image import import_image

        self.daemon.start()
        import_image(self.daemon.url)

    def strike(self) -> str:
        """Kill or stop the daemon for a while; return which, or "" if it is away already."""
        if self._away is not None and self._away.is_alive():
            return ""
        kills = self._random.random() < _KILLED_SHARE
        seconds = self._random.uniform(*_AWAY_SECONDS)
        self._away = threading.Thread(target=self._restart, args=[kills, seconds])
        self._away.start()
        return "dockerd killed" if kills else "dockerd restarted"

    def _restart(self, kills: bool, seconds: float) -> None:
        try:
            if kills:
                self.daemon.kill()
            else:
                self.daemon.stop()
            time.sleep(seconds)  # how long it is away is part of the experiment
            self.daemon.start()
        except Exception as error:
            self.problems.append(f"the daemon failed, which ends the experiment: {error!r}")

    def recover(self) -> None:
        """Wait until the daemon is back."""
        if self._away is not None:
            self._away.join()

    def left(self) -> list[str]:
        import docker

        from container_manager.executors.docker.configuration import INSTALL_LABEL

        api = docker.APIClient(self.daemon.url)
        try:
            found = api.containers(all=True, filters={"label": f"{INSTALL_LABEL}={INSTALL}"})
        finally:
            api.close()
        return [f"{container['Names'][0]} ({container['State']})" for container in found]

    def stop(self) -> None:
        self.recover()
        self.daemon.close()


ENGINES = {"process": Processes, "docker": Containers}


def obstacle(name: str) -> str:
    """Return why an engine is not available here; "" if it is."""
    if name != "docker":
        return ""
    from importlib.util import find_spec

    from ..docker import daemon, image

    if find_spec("docker") is None:
        return "the Python package docker is not installed"
    return daemon.obstacle() or image.obstacle()
