"""Run attempts as containers of a Docker daemon."""

try:
    import docker as _sdk  # noqa: F401  # so that a missing extra is named here
except ImportError as error:
    raise ImportError("the SDK is missing; pip install 'django-container-manager[docker]'") from error

from .docker_executor import DockerExecutor

__all__ = ["DockerExecutor"]
