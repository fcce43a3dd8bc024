"""The signals of this app."""

from __future__ import annotations

from django.dispatch import Signal

# Sent on commit, never for a change that was rolled back. Arguments: transitions (tuple of
# statemachine.Transition, one per job that the statement moved) and using (database alias).
job_transitioned = Signal(use_caching=True)

# Sent by the one worker that maintains, every few seconds, so that other apps have their share of upkeep done.
# Argument: using (database alias). A receiver does little at a time, since the worker waits; True: there is more.
maintenance_due = Signal()
