"""What the executors of containers have in common: a job's requests against the options of an executor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

from ..conf import AppSettings
from ..jobs.sizes import MOST_CPUS, text_bytes
from .base import LaunchSpec, Rejected

T = TypeVar("T", int, float)
V = TypeVar("V", str, bool)
_HUB = ("docker.io/", "index.docker.io/")
# The kernel's minimum; engines round a smaller share to no limit at all.
_LEAST_CPUS = 0.01


def check_install(settings: AppSettings) -> None:
    """Raise ImproperlyConfigured where the installation has no name of its own."""
    # The default itself, or what `for_database` derives from it.
    if f"{settings.install}-".startswith(f"{AppSettings().install}-"):
        raise ImproperlyConfigured(
            "CONTAINER_MANAGER['INSTALL'] must name this installation where containers are run: another one on the "
            "same engine is told apart by it, and what belongs to nobody is removed."
        )


def check_launch(spec: LaunchSpec, *, images: Sequence[str], command_bytes: int) -> None:
    """Raise Rejected for an image that is not allowed, a command that is too long, or a relative working directory."""
    if not spec.job.image:
        raise Rejected("image", "The job names no image, and this executor runs containers. Give it one.")
    if not is_allowed_image(spec.job.image, images):
        allowed = ", ".join(images) or "none"
        raise Rejected(
            "image",
            f"The image {spec.job.image!r} is not allowed. Allowed by the executor's option 'images': {allowed}.",
        )
    if (size := sum(map(text_bytes, (*spec.container.entrypoint_words, *spec.argv)))) > command_bytes:
        raise Rejected(
            "start",
            f"The command has {size} bytes; the executor's option 'command_bytes' allows {command_bytes}. Pass "
            "long input by a variable or in a file.",
        )
    if (directory := spec.job.working_directory) and not directory.startswith("/"):
        raise Rejected("start", f"The working directory {directory!r} is no absolute path; in a container it must be.")


def is_allowed_image(image: str, patterns: Iterable[str]) -> bool:
    """Return whether an image matches one of the patterns: its name, its tag and its digest, as far as one names them.

    The digest decides what is run, and the tag beside it nothing: a pattern with a tag alone allows no digest.
    """
    name, tag, digest = split_reference(image)
    for pattern in patterns:
        allowed_name, allowed_tag, allowed_digest = split_reference(pattern)
        if (
            fnmatchcase(name, allowed_name)
            and (not allowed_tag or fnmatchcase(tag if tag or digest else "latest", allowed_tag))
            and (fnmatchcase(digest, allowed_digest) if allowed_digest else not (allowed_tag and digest))
        ):
            return True
    return False


def split_reference(reference: str) -> tuple[str, str, str]:
    """Return an image's name, without the Docker Hub's host, its tag and its digest.

    A colon before the last slash is a registry's port, which no pattern's tag may match.
    """
    name, _, digest = reference.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    name = path + slash + last
    # Only one is removed: after it, the other would be the name of a user.
    hub = next((hub for hub in _HUB if name.startswith(hub)), "")
    return name.removeprefix(hub).removeprefix("library/"), tag, digest


def require_allowed(what: str, asked: Iterable[str], allowed: Iterable[str], *, option: str) -> None:
    """Raise Rejected where a job asks for what the option does not list."""
    for each in asked:
        if each not in allowed:
            known = ", ".join(allowed) or "none"
            raise Rejected(
                "start",
                f"The job asks for the {what} {each!r}. Allowed by the executor's option {option!r}: {known}.",
            )


def allowed_or_default(what: str, asked: str, allowed: Iterable[str], default: str, *, option: str) -> str:
    """Return what a job requests by name, else the default. Raises Rejected for what is neither that nor allowed."""
    if asked and asked != default:
        require_allowed(what, [asked], allowed, option=option)
    return asked or default


def allowed_volumes(names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise Rejected for the name of a volume that the options do not have."""
    for name in names:
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise Rejected(
                "start", f"There is no volume {name!r}. Allowed by the executor's option 'volumes': {known}."
            )


def cores(asked: float | None, most: float | None) -> float | None:
    """Return how many cores a job gets at most; None: no limit. Raises Rejected for what it cannot have."""
    count = at_most("cpu_count", asked, most)
    if count and not _LEAST_CPUS <= count <= MOST_CPUS:
        raise Rejected("start", f"The job asks for cpu_count={count}; it can have from {_LEAST_CPUS} to {MOST_CPUS}.")
    return count


def at_most(name: str, asked: T | None, most: T | None, *, option: str = "") -> T | None:
    """Return what a job requests, else the maximum, which is also the default; None: no limit."""
    if asked is not None and most is not None and asked > most:
        text = f"The job asks for {name}={asked}; the executor's option {(option or name)!r} allows {most}."
        raise Rejected("start", text)
    return asked or most


def fixed(name: str, asked: V | None, given: V) -> V:
    """Return the executor's option; where it is not set, what a job requests."""
    if given and asked not in (None, "", given):
        raise Rejected("start", f"The job asks for {name}={asked!r}; the executor's option says {given!r}.")
    return given or asked or given
