"""The Kubernetes executor beside a bare client of the same cluster: ``python -m benchmarks.kubernetes``."""
