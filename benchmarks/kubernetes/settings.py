"""Django's settings of the workers.

BENCH_KUBECONFIG is the way to the cluster, BENCH_NAMESPACE where jobs run, BENCH_SOCKET the folder of the database's.
"""

import os

from benchmarks.queue.settings import DATABASES, DEFAULT_AUTO_FIELD, LOGGING, SECRET_KEY, USE_TZ
from tests.kubernetes.images import IMAGE

__all__ = ["DATABASES", "DEFAULT_AUTO_FIELD", "LOGGING", "SECRET_KEY", "USE_TZ"]

INSTALLED_APPS = ["container_manager"]
CONTAINER_MANAGER = {
    "INSTALL": "bench",
    "EXECUTORS": {
        "default": {
            "BACKEND": "container_manager.executors.kubernetes.KubernetesExecutor",
            "OPTIONS": {
                "kubeconfig": os.environ.get("BENCH_KUBECONFIG", ""),
                "namespace": os.environ.get("BENCH_NAMESPACE", ""),
                "images": [IMAGE],
            },
        }
    },
}
