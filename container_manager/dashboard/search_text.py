"""The one search: what its text means, such as ``status:failed queue:reports``.

`container_manager.dashboard.search` takes its pages, by indexes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import and_, or_
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import Q
from django.db.models.fields.json import KeyTextTransform
from django.db.models.lookups import Exact
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..jobs.identifiers import LEAST_ID_DIGITS, id_range
from ..jobs.printable import check_printable
from ..models import FailureReason, JobStatus
from ..querysets import ContainerJobQuerySet

# What a qualifier means, for help and completion. ``label.NAME`` stands for any label; "" for words without one.
QUALIFIERS: Mapping[str, Any] = {
    "": gettext_lazy("the beginning of a name or of an id"),
    "id": gettext_lazy("the beginning of an id"),
    "name": gettext_lazy("a name; nightly* for those that begin so"),
    "status": ", ".join(JobStatus.values),
    "reason": ", ".join(FailureReason.values),
    "queue": gettext_lazy("a queue"),
    "executor": gettext_lazy("an executor's alias"),
    "worker": gettext_lazy("the worker that runs it now"),
    "created-after": gettext_lazy("2026-01-31, 2026-01-31T14:00 or 2h (m, h, d) ago"),
    "created-before": gettext_lazy("as created-after"),
    "label.NAME": gettext_lazy("the value of a label"),
}
_LABEL = "label."
_MOST_CHARACTERS, _MOST_VALUES = 1000, 50

_VALUE = r'"(?:[^"\\]|\\.)*"|[^\s",]+'
_TERM = re.compile(
    rf'(?P<qualifier>(?:label\.(?:"(?:[^"\\]|\\.)+"|[^\s:"]+))|[A-Za-z][\w-]*):(?P<values>(?:{_VALUE})(?:,(?:{_VALUE}))*)(?=\s|$)'
)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"(?=\s|$)|[^\s"]+(?=\s|$)')
_AGO = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LAST_CHARACTER = "\U0010ffff"


class SearchError(ValueError):
    """The text is no search, or the cursor none of its pages; the message says what is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A parsed search; ``str(search)`` is its text, in one spelling.

    ``terms``: each qualifier with its values, of which any may match. Different qualifiers must all match.
    """

    terms: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        return " ".join(
            _quoted(values[0], always=" " in values[0] or ":" in values[0])
            if not name
            else f"{_quoted_name(name)}:{','.join(map(_quoted, values))}"
            for name, values in self.terms
        )

    def values(self, qualifier: str) -> tuple[str, ...]:
        """Return the values of a qualifier, () if it is not there."""
        return dict(self.terms).get(qualifier, ())

    def toggled(self, qualifier: str, value: str) -> Search:
        """Return the search with this value of the qualifier taken away, or added; for links that filter."""
        terms = dict(self.terms)
        values = terms.get(qualifier, ())
        left = tuple(v for v in values if v != value) if value in values else (*values, value)
        terms[qualifier] = left
        return Search(terms=tuple((name, values) for name, values in terms.items() if values))

    def without(self, *qualifiers: str) -> Search:
        """Return the search without these qualifiers."""
        return Search(terms=tuple((name, values) for name, values in self.terms if name not in qualifiers))

    def only(self, *qualifiers: str) -> Search:
        """Return the search with these qualifiers alone."""
        return Search(terms=tuple((name, values) for name, values in self.terms if name in qualifiers))

    def frozen(self) -> Search:
        """Return the search with times instead of ``2h`` ago, so that it means the same later."""
        return Search(
            terms=tuple(
                (name, tuple(_time(value).isoformat() for value in values) if name in _TIMES else values)
                for name, values in self.terms
            )
        )

    def filter(self, jobs: ContainerJobQuerySet) -> ContainerJobQuerySet:
        """Return the jobs that match, in no order, however many; pages: `container_manager.dashboard.search`."""
        return jobs.filter(self.condition(using=jobs.db))

    def condition(self, *, using: str) -> Q:
        """Return what the rows must meet."""
        return reduce(and_, (_condition(name, values, using) for name, values in self.terms), Q())


def parse(text: str) -> Search:
    """Return the search that a text means. Raises SearchError, whose message names what is known."""
    if len(text) > _MOST_CHARACTERS:
        raise SearchError(_("A search can have at most %s characters.") % _MOST_CHARACTERS)
    terms: dict[str, tuple[str, ...]] = {}
    words: list[str] = []
    for name, values in _tokens(text):
        if not name:
            words += values
        else:
            checked = tuple(_checked(name, value) for value in values)
            terms[name] = tuple(dict.fromkeys((*terms.get(name, ()), *checked)))
    if words:
        terms[""] = (_checked("", " ".join(words)),)
    if sum(map(len, terms.values())) > _MOST_VALUES:
        raise SearchError(_("A search can have at most %s values.") % _MOST_VALUES)
    return Search(terms=tuple(terms.items()))


def _tokens(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif found := _TERM.match(text, position):
            yield _qualifier(found["qualifier"]), tuple(_unquoted(v) for v in re.findall(_VALUE, found["values"]))
            position = found.end()
        elif (found := _WORD.match(text, position)) and (":" not in found[0] or found[0].startswith('"')):
            yield "", (_unquoted(found[0]),)
            position = found.end()
        else:
            rest = text[position : position + 40]
            raise SearchError(
                _(
                    'This cannot be read: %(rest)s … Write qualifier:value, with "…" around a value that has spaces, '
                    "commas or quotes. Known: %(known)s."
                )
                % {"rest": rest, "known": _known()}
            )


def _qualifier(text: str) -> str:
    name = _LABEL + _unquoted(text[len(_LABEL) :]) if text.startswith(_LABEL) else text.lower()
    if name.startswith(_LABEL):
        if name[len(_LABEL) :].lstrip("-").isdecimal():
            # To JSON paths a number is a place in a list.
            raise SearchError(_("Labels whose name is a number cannot be searched for."))
        return name
    if name not in QUALIFIERS:
        text = _('"%(name)s" is no qualifier. Known: %(known)s. Put quotes around a text with a colon.')
        raise SearchError(text % {"name": name, "known": _known()})
    return name


def _known() -> str:
    return ", ".join(name for name in QUALIFIERS if name)


def _checked(name: str, value: str) -> str:
    """Return a value as it is searched for. Raises SearchError."""
    try:
        check_printable(value)
    except ValueError as error:
        raise SearchError(str(error)) from error
    if not value and not name.startswith(_LABEL):
        raise SearchError(_("%s: needs a value.") % name)
    if name in _CHOICES and (value := value.lower()) not in _CHOICES[name]:
        text = _('"%(value)s" is no %(name)s. Known: %(known)s.')
        raise SearchError(text % {"value": value, "name": name, "known": ", ".join(_CHOICES[name])})
    if name in _TIMES:
        _time(value)
    if name == "id" and id_range(value) is None:
        raise SearchError(
            _("An id has hexadecimal digits: the first %s of them, or more, are needed.") % LEAST_ID_DIGITS
        )
    return value


_CHOICES: Mapping[str, list[str]] = {"status": JobStatus.values, "reason": FailureReason.values}
_TIMES = ("created-after", "created-before")


def _time(value: str) -> datetime:
    """Return the time that a text means, with a time zone. Raises SearchError."""
    if ago := _AGO.fullmatch(value):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = parse_datetime(value)
        if found is None and (day := parse_date(value)):
            found = datetime(day.year, day.month, day.day)
    except ValueError:
        found = None
    if found is None:
        raise SearchError(
            _('"%(value)s" is no time. Write %(known)s.') % {"value": value, "known": QUALIFIERS[_TIMES[0]]}
        )
    return found if timezone.is_aware(found) else timezone.make_aware(found)


def first_id(at: datetime) -> UUID:
    """Return the lowest id of version 7 that can be made at this time."""
    milliseconds = max(0, int(at.timestamp() * 1000))
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62)


def name_condition(value: str, using: str) -> Q:
    """Return the condition of a name, or of a beginning that ends with ``*``, as the index of names serves it."""
    # In the words of the index's own condition.
    named = ~Q(name="")
    beginning, vendor = value.removesuffix("*"), connections[using].vendor
    # MariaDB's index takes upper and lower case as equal, and serves no LIKE BINARY; SQLite's LIKE takes them so too.
    exactly = Q() if vendor == "sqlite" else Q(name__startswith=beginning)
    if beginning == value:
        return named & Q(name=value) & (exactly if vendor == "mysql" else Q())
    between = Q(name__gte=beginning, name__lt=beginning + _LAST_CHARACTER)
    return named & exactly & (Q() if vendor == "postgresql" else between)


def _condition(name: str, values: tuple[str, ...], using: str) -> Q:
    if name.startswith(_LABEL):
        label = KeyTextTransform(name[len(_LABEL) :], "labels")
        return reduce(or_, (Q(Exact(label, value)) for value in values))
    return _CONDITIONS[name](values, using)


def id_condition(values: tuple[str, ...]) -> Q:
    """Return the condition of ids that begin so; an empty one if none can."""
    return reduce(or_, (Q(pk__range=found) for value in values if (found := id_range(value))), Q())


def _words_condition(values: tuple[str, ...], using: str) -> Q:
    return name_condition(f"{values[0]}*", using) | id_condition(values)


_CONDITIONS: Mapping[str, Callable[[tuple[str, ...], str], Q]] = {
    "": _words_condition,
    "id": lambda values, using: id_condition(values),
    "name": lambda values, using: reduce(or_, (name_condition(value, using) for value in values)),
    "status": lambda values, using: Q(status__in=values) if len(values) > 1 else Q(status=values[0]),
    "reason": lambda values, using: Q(failure_reason__in=values),
    "queue": lambda values, using: Q(queue__in=values),
    "executor": lambda values, using: Q(executor__in=values),
    # A job names its worker only while it runs.
    "worker": lambda values, using: Q(status=JobStatus.RUNNING, worker__in=values),
    "created-after": lambda values, using: Q(pk__gte=first_id(min(map(_time, values)))),
    "created-before": lambda values, using: Q(pk__lt=first_id(max(map(_time, values)))),
}


def _quoted(value: str, *, always: bool = False) -> str:
    if not always and re.fullmatch(r'[^\s",\\]+', value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted_name(name: str) -> str:
    if not name.startswith(_LABEL) or re.fullmatch(r'[^\s:"]+', name):
        return name
    return _LABEL + _quoted(name[len(_LABEL) :], always=True)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
