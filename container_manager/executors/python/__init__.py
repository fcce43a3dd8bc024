"""Run tasks in processes that are forked from one that has imported the project."""

from .python_executor import PythonExecutor

__all__ = ["PythonExecutor"]
