"""The engines of the chaos test: local processes, or containers of a daemon that is killed and restarted too."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .worker_process import HOSTS

if TYPE_CHECKING:
    from ..docker.daemon import Daemon

INSTALL = "chaos"
_AWAY_SECONDS = (0.0, 4.0)


class Processes:
    """Local processes. They end with their workers, and there is no daemon that could be killed."""

    between_faults = (0.2, 0.8)
    disturbances: dict[str, float] = {}
    job: dict[str, Any] = {}
    # As many as the database's.
    workers = 0

    def __init__(self, effects: Path, chance: random.Random) -> None:
        self.problems: list[str] = []

    def start(self) -> None: ...

    def executors(self, host: str) -> dict[str, Any]:
        """Return the setting EXECUTORS of workers on a host."""
        return {}

    def hosts_by_engine(self) -> dict[str, str]:
        """Return by the identity of each engine the only host whose workers reach it."""
        return {}

    def strike(self, disturbance: str, done: Callable[[], None]) -> None:
        """Begin one of the ``disturbances``; ``done`` is called when it has happened, perhaps by another thread."""

    def recover(self) -> None: ...

    def left(self) -> list[str]:
        """Return what the engine still holds."""
        return []

    def stop(self) -> None: ...


class Containers:
    """Containers of two Docker daemons, one for each host; whether they survive theirs (live-restore) is random.

    To the workers on both hosts their daemon has the same alias.
    """

    # A container takes a tenth of a second or more: with more frequent faults none would end.
    between_faults = (0.3, 1.3)
    disturbances = {"dockerd killed": 11.0, "dockerd restarted": 7.0}
    # Two on each host: containers of one that is gone are adopted by the other.
    workers = 4

    def __init__(self, effects: Path, chance: random.Random) -> None:
        from ..docker.daemon import Daemon
        from ..docker.image import IMAGE

        self._random = chance
        self.daemons = {host: Daemon(live_restore=chance.random() < 0.5) for host in HOSTS}
        self.problems: list[str] = []
        self._away: dict[str, threading.Thread] = {}
        self._identities: dict[str, str] = {}
        # Root in a container without capabilities cannot write to a folder that is closed to others.
        effects.chmod(0o777)
        volumes = {"effects": {"source": str(effects), "read_only": False, "allow_root": True}}
        self._options = {"images": [IMAGE], "volumes": volumes}
        self.job = {"image": IMAGE, "container": {"volumes": {"effects": str(effects)}}}

    def start(self) -> None:
        from container_manager.executors.docker.daemon import identity
        from container_manager.executors.docker.flavours import DOCKER

        from ..docker.image import import_image

        for host, daemon in self.daemons.items():
            daemon.start()
            import_image(daemon.url)
            with closing(self._api(host)) as api:
                self._identities[identity(api.info(), DOCKER)] = host

    def executors(self, host: str) -> dict[str, Any]:
        options = {"base_url": self.daemons[host].url, **self._options}
        return {"default": {"BACKEND": "container_manager.executors.docker.DockerExecutor", "OPTIONS": options}}

    def hosts_by_engine(self) -> dict[str, str]:
        return self._identities

    def strike(self, disturbance: str, done: Callable[[], None]) -> None:
        """Kill or stop a daemon for a while, unless it is away already."""
        host = self._random.choice(HOSTS)
        seconds = self._random.uniform(*_AWAY_SECONDS)
        if host not in self._away or not self._away[host].is_alive():
            arguments = (self.daemons[host], disturbance == "dockerd killed", seconds, done)
            self._away[host] = threading.Thread(target=self._restart, args=arguments)
            self._away[host].start()

    def _restart(self, daemon: Daemon, kills: bool, seconds: float, done: Callable[[], None]) -> None:
        try:
            if kills:
                daemon.kill()
            else:
                daemon.stop()
            done()
            time.sleep(seconds)  # how long it is away is part of the experiment
            daemon.start()
        except Exception as error:
            self.problems.append(f"the daemon failed, which ends the experiment: {error!r}")

    def recover(self) -> None:
        """Wait until the daemons are back."""
        for away in self._away.values():
            away.join()

    def left(self) -> list[str]:
        from container_manager.executors.docker.configuration import INSTALL_LABEL

        found = []
        for host in HOSTS:
            with closing(self._api(host)) as api:
                found += api.containers(all=True, filters={"label": f"{INSTALL_LABEL}={INSTALL}"})
        return [f"{container['Names'][0]} ({container['State']})" for container in found]

    def _api(self, host: str) -> Any:
        import docker

        return docker.APIClient(self.daemons[host].url)

    def stop(self) -> None:
        self.recover()
        for daemon in self.daemons.values():
            daemon.close()


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
