"""A project whose models refer to jobs."""
