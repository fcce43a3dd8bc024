"""The Kubernetes executor, on the official client: a Job per attempt, a verdict from positive evidence only."""

try:
    import kubernetes as _sdk  # noqa: F401  # so that a missing extra is named here
except ImportError as error:
    raise ImportError("the client is missing; pip install 'django-container-manager[kubernetes]'") from error

from .kubernetes_executor import KubernetesExecutor

__all__ = ["KubernetesExecutor"]
