"""Keep a daemon's images: pull what the options name ahead of jobs, and remove what nothing has used for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from docker.errors import APIError

from ...jobs.package_log import package_logger
from ..allow_lists import is_allowed_image, split_reference
from ..base import ExecutorError, Unavailable
from .daemon import Daemon
from .daemon_answers import CONFLICT, NOT_FOUND, Gone
from .images import Images
from .options import DockerOptions

_PASS_SECONDS = 600.0
# What was used, or first seen, more recently than this stays, whatever it takes: a launch may be about to use it.
_FRESH_SECONDS = 600.0
_NONE = "<none>"
logger = package_logger(__name__)


class _Reference(NamedTuple):
    name: str
    tag: str
    digest: str

    @classmethod
    def of(cls, image: str) -> _Reference:
        name, tag, digest = split_reference(image)
        # Beside a digest a tag decides nothing.
        return cls(name, "" if digest else tag or "latest", digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of the daemon: its names, its size in bytes, and when it was used last, in monotonic seconds."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    used_at: float


class Upkeep:
    """Looks after the images that the options allow. Any thread may call it; what takes long has a thread of its own.

    Of what other workers launch it knows what has a container when it looks; of what was before it started, nothing.
    """

    def __init__(self, daemon: Daemon, images: Images, options: DockerOptions) -> None:
        self._daemon, self._images, self._options = daemon, images, options
        self._cleans = options.unused_images_seconds is not None or options.unused_images_bytes is not None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._due_at = 0.0
        self._closed = False
        # When jobs of this worker last named an image, and when each image of the daemon was last seen in use.
        self._launched: dict[_Reference, float] = {}
        self._used: dict[str, float] = {}

    def note_use(self, image: str) -> None:
        """Note that a job is about to use an image."""
        if self._cleans:
            with self._lock:
                self._launched[_Reference.of(image)] = time.monotonic()

    def begin(self) -> None:
        """Begin what is due, unless it goes on still; return at once."""
        with self._lock:
            is_due = (self._cleans or self._options.prepull) and time.monotonic() >= self._due_at
            if not is_due or self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._due_at = time.monotonic() + _PASS_SECONDS
            self._thread = threading.Thread(target=self._run, name="container-manager-upkeep", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Begin nothing any more."""
        self._closed = True

    def _run(self) -> None:
        steps: list[Callable[[], None]] = [partial(self._pull, image) for image in self._options.prepull]
        if self._cleans:
            steps.append(self._clean)
        for step in steps:
            try:
                self._require_open()
                step()
            except ExecutorError as error:
                if not self._closed:
                    logger.warning("Upkeep of images: %s", error)
            except Exception:
                # Housekeeping: an error of it must not end the worker.
                logger.exception("Upkeep of images failed")

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("This executor is closed.")

    def _pull(self, image: str) -> None:
        try:
            with self._daemon.client() as api:
                api.inspect_image(image)
        except Gone:
            logger.info("Pulling image %s ahead of jobs", image)
            key = f"prepull {image}"
            self._images.pull(image, key, note=lambda _: None).result()
            self._images.forget(key, why=Unavailable(""))

    def _clean(self) -> None:
        now = time.monotonic()
        for image in superfluous(self._unused(now), self._options, now=now):
            self._require_open()
            self._remove(image)

    def _unused(self, now: float) -> list[Image]:
        """Return the images that may be removed as far as jobs go, those that were used last at the end."""
        with self._daemon.client() as api:
            # In this order: what is created in between is in use.
            rows = api.images()
        in_use = {row["ImageID"] for row in self._daemon.containers()}
        with self._lock:
            launched = dict(self._launched)
        images = []
        for row in rows:
            tags, digests = (tuple(_names(row, key)) for key in ("RepoTags", "RepoDigests"))
            used = [launched.get(_Reference.of(name), 0.0) for name in (*tags, *digests)]
            # One that is seen for the first time counts as used just now.
            seen_at = now if row["Id"] in in_use else self._used.get(row["Id"], now)
            used_at = self._used[row["Id"]] = max([seen_at, *used])
            images.append(Image(id=row["Id"], tags=tags, digests=digests, size=row["Size"], used_at=used_at))
        self._used = {image.id: image.used_at for image in images}
        self._forget_launches(now)
        kept = {_Reference.of(image) for image in self._options.prepull}
        unused = [i for i in images if i.id not in in_use and not kept & set(map(_Reference.of, (*i.tags, *i.digests)))]
        return sorted((i for i in unused if is_a_jobs(i, self._options)), key=lambda i: i.used_at)

    def _forget_launches(self, now: float) -> None:
        """Forget launches that are noted with their images by now."""
        with self._lock:
            self._launched = {image: at for image, at in self._launched.items() if now - at < _PASS_SECONDS}

    def _remove(self, image: Image) -> None:
        for name in image.tags or (image.id,):
            with self._daemon.client() as api:
                try:
                    api.remove_image(name)
                except APIError as error:
                    if error.status_code not in (CONFLICT, NOT_FOUND):
                        raise
                    # A container uses it by now, or it is gone.
                    return
        logger.info("Removed image %s, which nothing uses", ", ".join(image.tags or image.digests))


def superfluous(unused: list[Image], options: DockerOptions, *, now: float) -> Iterator[Image]:
    """Yield which unused images are to be removed, of those in the order of their last use: too old, or too much."""
    seconds, most = options.unused_images_seconds, options.unused_images_bytes
    size = sum(image.size for image in unused)
    for image in unused:
        is_old = seconds is not None and now - image.used_at >= seconds
        is_too_much = most is not None and size > most and now - image.used_at >= _FRESH_SECONDS
        if is_old or is_too_much:
            size -= image.size
            yield image


def _names(row: Mapping[str, Any], key: str) -> Iterator[str]:
    return (name for name in row.get(key) or () if _NONE not in name)


def is_a_jobs(image: Image, options: DockerOptions) -> bool:
    """Return whether jobs may run it under all its names, and a registry has it: what was built here stays.

    A pull of a tag leaves the image that had the tag before without one.
    """
    if not image.digests:
        return False
    if image.tags:
        return all(is_allowed_image(tag, options.images) for tag in image.tags)
    patterns = [split_reference(pattern)[0] for pattern in options.images]
    names = [split_reference(digest)[0] for digest in image.digests]
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
