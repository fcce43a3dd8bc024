"""Executors run attempts: local processes, containers, cluster jobs. They never import models."""
