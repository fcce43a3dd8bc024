"""Django's settings of the workers. BENCH_DOCKER is the daemon's address, BENCH_SOCKET the folder of the database's."""

import os

from benchmarks.queue.settings import DATABASES, DEFAULT_AUTO_FIELD, LOGGING, SECRET_KEY, USE_TZ
from tests.docker.image import IMAGE

__all__ = ["DATABASES", "DEFAULT_AUTO_FIELD", "LOGGING", "SECRET_KEY", "USE_TZ"]

INSTALLED_APPS = ["container_manager"]
CONTAINER_MANAGER = {
    "INSTALL": "bench",
    "EXECUTORS": {
        "default": {
            "BACKEND": "container_manager.executors.docker.DockerExecutor",
            "OPTIONS": {"base_url": os.environ.get("BENCH_DOCKER", ""), "images": [IMAGE, "127.0.0.1:*/stalled/*"]},
        }
    },
}
