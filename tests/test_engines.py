"""Which engines answer, as a worker knows it."""

from __future__ import annotations

import pytest

from container_manager.conf import AppSettings
from container_manager.executors.base import Unavailable
from container_manager.worker.engines import Engines

from .test_runs import SETTINGS, Engine, SurvivingEngine

pytestmark = pytest.mark.without_database


def test_an_engine_that_outlives_workers_is_away_until_it_has_answered() -> None:
    engines = Engines({"local": Engine(), "docker": SurvivingEngine()}, SETTINGS)
    assert (engines.reachable, engines.away) == (["local"], ["docker"])
    engines.observe("docker")
    assert (engines.reachable, engines.away) == (["local", "docker"], [])


def test_an_engine_that_does_not_answer_is_away_until_it_does() -> None:
    engine = Engine()
    engines = Engines({"local": engine}, SETTINGS)
    engine.is_away = True
    assert isinstance(engines.observe("local"), Unavailable)
    assert (engines.reachable, engines.away, engines.given_up) == ([], ["local"], [])
    assert not engines.take_came_back()
    engine.is_away = False
    engines.observe("local")
    assert (engines.reachable, engines.away) == (["local"], [])
    assert [engines.take_came_back(), engines.take_came_back()] == [True, False]


def test_an_engine_that_is_away_for_too_long_is_given_up() -> None:
    engines = Engines({"docker": SurvivingEngine()}, AppSettings(unreachable_seconds=0.0))
    assert (engines.away, engines.given_up) == ([], ["docker"])


def test_an_engine_has_unread_changes_until_it_is_observed() -> None:
    engines = Engines({"local": Engine()}, SETTINGS)
    engines.observe("local")
    assert not engines.has_changed("local")
    engines.note_change("local")
    assert engines.has_changed("local")
