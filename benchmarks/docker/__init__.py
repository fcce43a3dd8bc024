"""The Docker executor beside its daemon's raw API: ``python -m benchmarks.docker``."""
