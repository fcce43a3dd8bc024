"""Metrics and health for whoever watches over jobs; optional, taken in by a project's URLs. Closed by default."""
