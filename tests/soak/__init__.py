"""What takes too long for the tests: many jobs, a long absence of the database, full tables. ``python -m tests.soak``."""
