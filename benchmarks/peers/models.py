"""Where Django looks for the peers' models; `WAYS` are all the peers of this database."""

from django.conf import settings

from . import flow, fsm2, seed

WAYS = (*seed.WAYS, *fsm2.WAYS, *flow.WAYS)

if "pgtrigger" in settings.INSTALLED_APPS:
    from . import triggered

    WAYS += triggered.WAYS
