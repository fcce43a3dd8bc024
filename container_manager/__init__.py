"""Container jobs whose status cannot lie."""

__version__ = "0.1.0"
