"""Where Django looks for the peers' models."""

from django.conf import settings

from .flow import FlowJob
from .fsm2 import ConcurrentFsmJob, FsmJob
from .seed import SeedJob

__all__ = ["ConcurrentFsmJob", "FlowJob", "FsmJob", "SeedJob"]

if "pgtrigger" in settings.INSTALLED_APPS:
    from .triggered import TriggeredJob

    __all__ += ["TriggeredJob"]  # noqa: PLE0604  # each is a name
