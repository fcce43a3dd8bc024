"""The queue beside other queues in PostgreSQL, and beside a hand-written floor: ``python -m benchmarks.queue``."""
