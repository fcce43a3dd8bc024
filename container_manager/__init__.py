"""Container jobs whose status cannot lie.

Users import `models`, `queue`, `signals`, `statemachine` and `executors.base`; docs/explanation/architecture.md has the
list of public names. The other packages are private.
"""

__version__ = "0.1.0"
