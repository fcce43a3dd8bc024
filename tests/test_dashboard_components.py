"""What the dashboard's pages are made of: the picture of the statuses, the bars of attempts, charts, and shapes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings

from container_manager.dashboard.charts import stacked_bars, value_lines
from container_manager.dashboard.failures_page import shape_of
from container_manager.dashboard.page import content_security_policy
from container_manager.dashboard.state_picture import state_picture
from container_manager.dashboard.templatetags.container_dashboard import took
from container_manager.dashboard.timeline import attempt_bars, steps
from container_manager.models import ContainerJob, JobAttempt, JobTransition

from .jobs import LEGAL, STATUSES, THEN

pytestmark = pytest.mark.without_database


def at(seconds: float) -> Any:
    return THEN + timedelta(seconds=seconds)


def transition(source: str, target: str, seconds: float) -> JobTransition:
    return JobTransition(from_status=source, to_status=target, at=at(seconds))


def test_the_status_diagram_has_every_status_and_every_edge_of_the_map_once() -> None:
    picture = state_picture("queued", [])
    assert sorted(box.status for box in picture.boxes) == sorted(STATUSES)
    assert sorted((arrow.source, arrow.target) for arrow in picture.arrows) == sorted(LEGAL)
    assert len({arrow.path for arrow in picture.arrows}) == len(LEGAL)
    for box in picture.boxes:
        assert 0 <= box.left < box.left + picture.box_width <= picture.width
        assert 0 <= box.top < box.top + picture.box_height <= picture.height


def test_the_status_diagram_shows_the_path_and_the_current_status() -> None:
    way = [("queued", "running"), ("running", "failed"), ("failed", "retrying"), ("retrying", "queued")]
    picture = state_picture("queued", [*way, *way])
    assert [box.status for box in picture.boxes if box.is_present] == ["queued"]
    assert {box.status for box in picture.boxes if box.was_passed} == {"queued", "running", "failed", "retrying"}
    assert {(arrow.source, arrow.target): arrow.times for arrow in picture.arrows if arrow.times} == dict.fromkeys(
        way, 2
    )
    assert picture.words.startswith("Queued → Running → Failed → Retrying → Queued")


def test_each_step_of_the_history_shows_how_long_its_status_lasted() -> None:
    found = steps([transition("queued", "running", 5), transition("running", "completed", 9)])
    assert [step.stayed for step in found] == [timedelta(seconds=4), None]
    assert steps([]) == []


def test_bars_of_attempts_have_one_scale_and_the_parts_queued_starting_and_running() -> None:
    job = ContainerJob(created_at=at(0))
    transitions = [
        transition("queued", "running", 10), transition("running", "failed", 40), transition("failed", "retrying", 40),
        transition("retrying", "queued", 50), transition("queued", "running", 60),
    ]  # fmt: skip
    first = JobAttempt(number=1, launched_at=at(10), waited_seconds=5.0, finished_at=at(40))
    second = JobAttempt(number=2, launched_at=at(60))
    bars = attempt_bars(job, [first, second], transitions, now=at(70))
    parts = [[(part.kind, part.took.total_seconds(), part.is_open) for part in bar.parts] for bar in bars]
    assert parts == [
        [("queued", 10, False), ("starting", 5, False), ("running", 25, False)],
        [("queued", 10, False), ("running", 10, True)],
    ]
    assert [bar.total.total_seconds() for bar in bars] == [40, 20]
    assert bars[0].parts[0].width == bars[1].parts[0].width
    # What waits for its image does not run yet; a clock that is behind makes no bar that goes backwards.
    third = JobAttempt(number=2, launched_at=at(60), waiting_for="image x")
    (bar,) = attempt_bars(job, [third], transitions, now=at(59))
    assert [(part.kind, part.took.total_seconds()) for part in bar.parts] == [("queued", 10), ("starting", 0)]


def test_bars_of_a_chart_are_stacked_below_a_round_number() -> None:
    chart = stacked_bars([("10:00", {"completed": 3, "failed": 1}), ("10:01", {"completed": 0, "failed": 0})])
    low, high = chart.rectangles
    assert (low.kind, low.title, high.kind) == ("completed", "10:00: 3 completed", "failed")
    assert low.y + low.height == chart.baseline
    assert high.y + high.height == pytest.approx(low.y, abs=0.11)
    assert [tick.label for tick in chart.values] == ["0", "2.5", "5"]
    assert stacked_bars([]).is_empty
    assert stacked_bars([("10:00", {"completed": 0})]).is_empty


def test_lines_of_a_chart_leave_out_unknown_values() -> None:
    chart = value_lines([("10:00", [1.0, 9.0]), ("10:01", [None, None]), ("10:02", [2.0, 4.0])])
    assert [len(line.split()) for line in chart.lines] == [2, 2]
    assert chart.values[-1].label == "10 s"
    # A line needs two points to be seen.
    assert len(value_lines([("10:00", [1.0])]).lines[0].split()) == 2
    assert value_lines([("10:00", [None])]).is_empty


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ("row 17 of '/tmp/a b' is wrong", "row … of … is wrong"),
        ('image "busybox:1.36" not found: 404', "image … not found: …"),
        ("job 01a22670-1a75-7c64-8948-aab0260cde2a lost\nmore", "job … lost"),
        ("", ""),
    ],
)
def test_messages_that_differ_in_names_and_numbers_only_have_one_shape(message: str, shape: str) -> None:
    assert shape_of(message) == shape


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.32, "320 ms"), (4.21, "4.2 s"), (185, "3 min 5 s"), (7260, "2 h 1 min"), (187_200, "2 d 4 h"), (None, "")],
)
def test_a_time_is_shown_in_its_largest_units(seconds: float | None, text: str) -> None:
    assert took(seconds) == text


@pytest.mark.shows("howto/dashboard.md#content-security-policy")
@override_settings(STATIC_URL="https://files.example.org/static/")
def test_the_content_security_policy_allows_static_files_and_nothing_inline() -> None:
    policy = content_security_policy()
    assert "script-src https://files.example.org; style-src https://files.example.org;" in policy
    assert "unsafe" not in policy
