"""The plan of a save's UPDATE, as a function of what was loaded and what is to be saved."""

from __future__ import annotations

from typing import Any

import pytest

from container_manager.models import ContainerJob
from container_manager.statemachine.machine import machine_of
from container_manager.statemachine.save_plan import Condition, SavePlan, plan_save
from tests.machines.models import DRAFT, PUBLISHED, REVIEW, Article

pytestmark = pytest.mark.without_database

LOADED = {"status": "queued", "status_version": 7, "worker": "", "scheduled_for": None, "attempt": 1}
STATE = Condition("status", ("queued",), by_key=True)
VERSION = Condition("status_version", (7,))
MARKS = ("status_version", "status_changed_at", "status_changed_by", "status_changed_reason")


def plan(loaded: dict[str, Any], **values: Any) -> SavePlan:
    return plan_save(machine_of(ContainerJob), loaded=loaded, values=values)


def test_unchanged_lifecycle_columns_are_not_written_and_other_columns_always_are() -> None:
    planned = plan(LOADED, name="renamed", **LOADED)
    assert planned.written == {"name"}
    assert planned.conditions == ()


def test_a_changed_status_needs_the_loaded_status_and_version() -> None:
    planned = plan(LOADED, **{**LOADED, "status": "running", "status_version": 8})
    assert planned.written == {"status", "status_version"}
    assert planned.conditions == (STATE, VERSION)


@pytest.mark.parametrize("changed", [{"attempt": 2}, {"scheduled_for": "later"}, {"worker": "w"}])
def test_a_changed_lifecycle_column_needs_the_loaded_status_and_version_too(changed: dict[str, Any]) -> None:
    planned = plan(LOADED, **{**LOADED, **changed})
    assert planned.written == changed.keys()
    assert planned.conditions == (STATE, VERSION)


def test_a_status_that_was_not_loaded_must_be_the_new_one_or_lead_to_it() -> None:
    planned = plan({}, status="completed", name="x")
    assert planned.conditions == (Condition("status", ("running", "completed"), by_key=True),)
    assert not planned.knows_state


def test_version_and_time_without_a_loaded_status_are_left_to_the_database() -> None:
    planned = plan({}, status="completed", status_version=3, status_changed_by="nobody", worker="w")
    assert planned.written == {"status", "worker"}
    assert planned.reread == MARKS


def test_version_and_time_of_a_loaded_status_are_written_by_the_instance() -> None:
    planned = plan(LOADED, **{**LOADED, "status": "running", "status_changed_by": "alice"})
    assert planned.written == {"status", "status_changed_by"}
    assert planned.reread == ()


def test_a_lifecycle_column_that_was_loaded_without_the_status_must_be_as_it_was_loaded() -> None:
    planned = plan({"exit_code": None, "worker": "w"}, exit_code=3, worker="w")
    assert planned.written == {"exit_code"}
    assert planned.conditions == (Condition("exit_code", (None,)),)


def test_a_lifecycle_column_that_was_not_loaded_has_no_condition() -> None:
    planned = plan({}, exit_code=3)
    assert planned.written == {"exit_code"}
    assert planned.conditions == ()


def test_a_version_that_was_loaded_without_the_status_is_a_condition() -> None:
    planned = plan({"status_version": 7}, status="running", exit_code=1)
    states = Condition("status", ("pending", "queued", "running"), by_key=True)
    assert planned.conditions == (states, VERSION)


def test_a_machine_without_a_journal_has_a_condition_on_the_state_alone() -> None:
    planned = plan_save(machine_of(Article), loaded={"stage": DRAFT}, values={"stage": REVIEW, "title": ""})
    assert planned.conditions == (Condition("stage", (DRAFT,), by_key=True),)
    planned = plan_save(machine_of(Article), loaded={}, values={"stage": PUBLISHED})
    assert planned.conditions == (Condition("stage", (REVIEW, PUBLISHED), by_key=True),)


def test_a_save_plan_of_no_columns_has_neither_columns_nor_conditions() -> None:
    assert plan(LOADED) == SavePlan(written=set(), conditions=(), knows_state=True, reread=())
