"""Build the executors that the settings name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import AppSettings
from .base import Executor


def build_executors(settings: AppSettings, aliases: Iterable[str] | None = None) -> dict[str, Executor]:
    """Return executors by alias: those named, or all.

    Raises ImproperlyConfigured for an alias, class or option that does not exist, or that this host cannot use.
    """
    return {alias: build_executor(settings, alias) for alias in (settings.executors if aliases is None else aliases)}


def build_executor(settings: AppSettings, alias: str) -> Executor:
    """Return one executor; raises what `build_executors` raises."""
    cls = executor_class(settings, alias)
    with _named(alias):
        cls.check_host()
        return cls.from_settings(settings.executors[alias].get("OPTIONS", {}), settings)


def check_executor_options(settings: AppSettings, alias: str) -> None:
    """Raise what `build_executor` would for the options, without building one."""
    cls = executor_class(settings, alias)
    with _named(alias):
        cls.check_options(settings.executors[alias].get("OPTIONS", {}), settings)


def check_host(settings: AppSettings, alias: str) -> None:
    """Raise ImproperlyConfigured where a worker on this host cannot use an executor."""
    cls = executor_class(settings, alias)
    with _named(alias):
        cls.check_host()


@contextmanager
def _named(alias: str) -> Iterator[None]:
    """Name the alias in errors about its options."""
    try:
        yield
    except TypeError as error:
        raise ImproperlyConfigured(f"CONTAINER_MANAGER['EXECUTORS'][{alias!r}]['OPTIONS']: {error}.") from error
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"Executor {alias!r}: {error}") from error


def executor_class(settings: AppSettings, alias: str) -> type[Executor]:
    """Return an alias's class without building an executor; raises what `build_executors` raises."""
    if alias not in settings.executors:
        raise ImproperlyConfigured(f"There is no executor {alias!r}. Known: {', '.join(sorted(settings.executors))}.")
    path = settings.executors[alias]["BACKEND"]
    try:
        cls = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"Executor {alias!r}: {path} cannot be imported: {error}.") from error
    if not (isinstance(cls, type) and issubclass(cls, Executor)):
        raise ImproperlyConfigured(f"Executor {alias!r}: {path} is not an Executor.")
    return cls
