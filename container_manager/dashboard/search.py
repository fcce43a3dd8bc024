"""The one search: a text with qualifiers, such as ``status:failed queue:reports``, to jobs found by an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ..models import ContainerJob
from ..querysets import ContainerJobQuerySet

# What a qualifier means, for help and completion. ``label.NAME`` stands for any label.
QUALIFIERS: Mapping[str, str] = {}
PAGE_SIZE = 50


class SearchError(ValueError):
    """The text is no search, or the cursor none of its pages; the message says what is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A parsed search. Its text is ``str(search)``, in one spelling."""

    terms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each qualifier with its values, of which any may match; free words have the qualifier ``""``."""

    def __str__(self) -> str:
        raise NotImplementedError

    def values(self, qualifier: str) -> tuple[str, ...]:
        """Return the values of a qualifier, () if it is not there."""
        raise NotImplementedError

    def toggled(self, qualifier: str, value: str) -> Search:
        """Return the search with this value of the qualifier taken away, or added; for links that filter."""
        raise NotImplementedError

    def filter(self, jobs: ContainerJobQuerySet) -> ContainerJobQuerySet:
        """Return the jobs that match, unordered and unbounded; `keyset_page` is what a page takes."""
        raise NotImplementedError


def parse(text: str) -> Search:
    """Return the search that a text means. Raises SearchError, whose message names what is known."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of jobs, without their environment and other large columns.

    ``next`` and ``previous`` are cursors, "" if there is no such page. ``searched_until``: the creation time of the
    oldest job that was examined, if jobs beyond it have not been examined (then `next` goes on there, and the page may
    have few rows, or none); None if all that match were considered.
    """

    rows: tuple[ContainerJob, ...]
    next: str = ""
    previous: str = ""
    searched_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of jobs, counted up to a bound; as a text ``1,234`` or ``10,000+``."""

    number: int
    is_more: bool


def keyset_page(jobs: ContainerJobQuerySet, search: Search, cursor: str = "", size: int = PAGE_SIZE) -> Page:
    """Return a page of those jobs (`container_manager.dashboard.access.visible_jobs`) that match, the newest first.

    ``cursor``: "" for the first page, else `Page.next` or `Page.previous` of the same search. Raises SearchError.
    """
    raise NotImplementedError


def count_up_to(jobs: ContainerJobQuerySet, search: Search, most: int = 10_000) -> Count:
    """Count the jobs that match, examining at most so many."""
    raise NotImplementedError
