"""Run attempts as local processes."""

from .process_executor import ProcessExecutor

__all__ = ["ProcessExecutor"]
