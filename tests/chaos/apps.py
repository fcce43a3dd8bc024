"""The app that disturbs the chaos test's workers from inside."""

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    name = "tests.chaos"

    def ready(self) -> None:
        from container_manager.signals import job_transitioned

        from . import worker_disturbances

        if worker_disturbances.CONTROL is not None:
            job_transitioned.connect(worker_disturbances.be_slow)
