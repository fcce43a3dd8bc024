"""Attempts as Jobs of a Kubernetes cluster."""
