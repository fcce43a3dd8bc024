"""The one signal of this app."""

from __future__ import annotations

from django.dispatch import Signal

# Sent on commit, never for a change that was rolled back. Arguments: transitions (tuple of
# statemachine.Transition, one per job that the statement moved) and using (database alias).
job_transitioned = Signal(use_caching=True)
