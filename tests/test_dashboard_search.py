"""The search of the dashboard finds what its text says, page by page, and by indexes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from container_manager.dashboard import search as paging
from container_manager.dashboard.search import JobSearch, Page, Search, SearchError, parse
from container_manager.models import ContainerJob

from .jobs import job_in

pytestmark = pytest.mark.django_db


def names(text: str, **options: Any) -> list[str]:
    return [job.name for job in JobSearch(ContainerJob.objects.all(), parse(text)).page(**options).rows]


def all_pages(text: str, size: int) -> list[Page]:
    pages = [JobSearch(ContainerJob.objects.all(), parse(text)).page(size=size)]
    while pages[-1].next:
        pages.append(JobSearch(ContainerJob.objects.all(), parse(text)).page(pages[-1].next, size))
    return pages


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "gfedcba"),
        ("status:failed", "b"),
        ("status:failed,queued", "ba"),
        ("status:QUEUED status:failed", "ba"),
        ("queue:reports", "dc"),
        ("queue:reports status:pending", "d"),
        ("queue:nowhere", ""),
        ("executor:gpu", "e"),
        ("worker:w1", "f"),
        ("reason:oom", "b"),
        ("label.team:web", "g"),
        ('label.team:"web", label.team:web', None),
        ('label."a b:c__d":"x, y"', "c"),
        ("label.contains:1", "a"),
        ("name:a", "a"),
        ("name:a,b", "ba"),
        ("name:A", ""),
        ("created-after:2020-01-01", "gfedcba"),
        ("created-before:2020-01-01", ""),
        ("created-before:2020-01-01T10:00 status:failed", ""),
        ("created-after:1h", "gfedcba"),
        ("status:running", "f"),
        ("status:running queue:default", "f"),
    ],
)
def test_a_search_finds_the_jobs_that_match_and_no_others(text: str, found: str | None) -> None:
    job_in("queued", name="a", labels={"contains": "1"})
    job_in("failed", name="b", failure_reason="oom")
    job_in("completed", name="c", queue="reports", labels={"a b:c__d": "x, y"})
    job_in("pending", name="d", queue="reports")
    job_in("cancelled", name="e", executor="gpu")
    job_in("running", name="f", worker="w1")
    job_in("retrying", name="g", labels={"team": "web"})
    if found is None:
        with pytest.raises(SearchError, match="cannot be read"):
            parse(text)
        return
    assert "".join(names(text)) == found
    assert {job.name for job in parse(text).filter(ContainerJob.objects.all())} == set(found)
    assert str(JobSearch(ContainerJob.objects.all(), parse(text)).count()) == str(len(found))


def test_words_find_the_beginning_of_a_name_or_of_an_id() -> None:
    job = job_in("queued", name="nightly report 1")
    other = job_in("queued", name="Nightly report 2")
    assert names("nightly rep") == ["nightly report 1"]
    assert names("name:nightly*") == ["nightly report 1"]
    assert names("report") == []
    assert names(str(other.pk)) == ["Nightly report 2"]
    assert names(str(job.pk)[:18] + " status:queued")[-1] == "nightly report 1"
    assert names(f"id:{job.pk.hex}") == ["nightly report 1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour:red", "Known: id, name, status, reason, queue"),
        ("status:done", '"done" is no status. Known: pending, queued,'),
        ("reason:bad", "Known: error, signal, oom"),
        ("created-after:yesterday", "2026-01-31"),
        ("created-after:2026-02-31", "is no time"),
        ("id:xyz", "hexadecimal"),
        ("id:01", "hexadecimal"),
        ('"open', "cannot be read"),
        ("status:", "cannot be read"),
        ('queue:""', "needs a value"),
        ("label.7:x", "is a number"),
        ("name:\x1b[31m", "character"),
        ("x" * 1001, "at most 1000"),
        ("name:" + ",".join(map(str, range(51))), "at most 50 values"),
    ],
)
@pytest.mark.without_database
def test_an_invalid_search_raises_an_error_that_explains_it(text: str, said: str) -> None:
    with pytest.raises(SearchError, match=said.replace(".", r"\.")):
        parse(text)


_TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20)


@given(
    st.dictionaries(
        st.sampled_from(
            ["name", "queue", "executor", "worker", "label.a b", 'label."'],
        ),
        st.lists(_TEXTS, min_size=1, max_size=3, unique=True).map(tuple),
    ),
    _TEXTS,
)
@pytest.mark.without_database
def test_the_text_of_a_search_is_read_as_the_same_search(terms: dict[str, tuple[str, ...]], word: str) -> None:
    search = Search(terms=(*terms.items(), ("", (word.strip() or "x",))))
    assert parse(str(search)) == search


def test_toggling_a_value_adds_it_and_takes_it_away() -> None:
    search = parse("status:failed nightly")
    assert str(search.toggled("status", "queued")) == "status:failed,queued nightly"
    assert str(search.toggled("status", "failed")) == "nightly"
    assert str(search.without("")) == "status:failed"


def test_a_frozen_search_has_a_fixed_time_instead_of_an_age() -> None:
    before = datetime.now(UTC)
    (value,) = parse("created-after:2h").frozen().values("created-after")
    assert abs(before - timedelta(hours=2) - datetime.fromisoformat(value)) < timedelta(minutes=5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "queue:default",
        "status:failed",
        "status:failed queue:default",
        "status:queued",
        "name:n",
        "name:n*",
        "status:failed,queued",
    ],
)
@pytest.mark.parametrize("examined", [3, 10_000])
def test_pages_have_each_job_once_forwards_and_backwards(
    text: str, examined: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "EXAMINED", examined)
    now = datetime.now(UTC)
    for number in range(11):
        job = job_in("failed" if number % 2 else "queued", name="n", created_by=str(number))
        # Several at one time, and one that has none.
        ContainerJob.objects.filter(pk=job.pk, created_by__in="135").update(status_changed_at=now)
    wanted = {job.pk for job in parse(text).filter(ContainerJob.objects.all())}
    pages = all_pages(text, 2)
    forwards = [job.pk for page in pages for job in page.rows]
    assert len(forwards) == len(wanted)
    assert set(forwards) == wanted
    backwards: list[Any] = []
    page = pages[-1]
    backwards = [job.pk for job in page.rows]
    while page.previous:
        page = JobSearch(ContainerJob.objects.all(), parse(text)).page(page.previous, 2)
        backwards = [pk for pk in (job.pk for job in page.rows) if pk not in backwards] + backwards
    assert backwards == forwards
    assert not pages[0].previous


def test_a_page_reports_how_far_it_has_searched_and_the_next_page_continues_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "EXAMINED", 4)
    rare = job_in("completed", queue="rare", name="rare")
    others = [job_in("completed") for _ in range(9)]
    first = JobSearch(ContainerJob.objects.all(), parse("queue:rare")).page()
    assert (first.rows, first.searched_until) == ((), others[-4].created_at)
    pages = all_pages("queue:rare", 50)
    assert [job for page in pages for job in page.rows] == [rare]
    assert pages[-1].searched_until is None
    count = JobSearch(ContainerJob.objects.all(), parse("queue:default")).count(4)
    assert (count.number, str(count)) == (4, "4+")


@pytest.mark.parametrize("cursor", ["x", "n0.1", "n0.zz", "n1." + "0" * 32, "n0.5." + "0" * 32, "p0'; --"])
def test_an_invalid_page_cursor_is_an_error(cursor: str) -> None:
    with pytest.raises(SearchError, match="first page"):
        JobSearch(ContainerJob.objects.all(), parse("")).page(cursor)


def test_the_list_of_jobs_reads_no_large_column() -> None:
    job_in("queued", environment={"A": "1"})
    with CaptureQueriesContext(
        connection,
    ) as queries:
        JobSearch(ContainerJob.objects.all(), parse("queue:default")).page()
    text = " ".join(query["sql"] for query in queries)
    for column in ("environment", "command", "secrets", "last_error", 'container"'):
        assert column not in text.replace("container_manager", "")
