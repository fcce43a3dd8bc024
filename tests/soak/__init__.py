"""Everything that touches the queue, at once, for a minute: ``python -m tests.soak DATABASE``."""
