"""The private hooks of Django that saves and fixtures stand on, for whichever version is installed."""

from __future__ import annotations

import inspect
from typing import Any

import django
import pytest
from django.db.models import Model

from container_manager.models import ContainerJob
from container_manager.statemachine import MissingRow, StaleTransition
from container_manager.statemachine.model import StateMachineModel

from .jobs import job_in, row_of

HOOK = ["self", "base_qs", "using", "pk_val", "values", "update_fields", "forced_update"]


def test_djangos_do_update_has_the_expected_signature() -> None:
    expected = HOOK if django.VERSION < (6, 0) else [*HOOK, "returning_fields"]
    assert list(inspect.signature(Model._do_update).parameters) == expected


def test_djangos_do_insert_has_the_expected_signature() -> None:
    expected = ["self", "manager", "using", "fields", "returning_fields", "raw"]
    assert list(inspect.signature(Model._do_insert).parameters) == expected


@pytest.mark.django_db
class TestSave:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The columns of each UPDATE that Django hands to the hook."""
        seen: list[list[str]] = []
        real = StateMachineModel._do_update

        def watched(self: Any, base_qs: Any, using: str, pk_val: Any, values: Any, *rest: Any) -> Any:
            values = list(values)
            seen.append([field.attname for field, _, _ in values])
            return real(self, base_qs, using, pk_val, values, *rest)

        monkeypatch.setattr(StateMachineModel, "_do_update", watched)
        return seen

    def test_every_update_of_a_save_goes_through_do_update(self, asked: list[list[str]]) -> None:
        job = job_in("pending")
        asked.clear()
        job.name = "renamed"
        job.save()
        job.save(update_fields=["name"])
        assert len(asked) == 2
        assert {"name", "status"} <= set(asked[0])
        assert asked[1] == ["name"]

    def test_a_save_whose_update_matches_no_row_is_refused_and_does_not_insert(self) -> None:
        job = job_in("queued")
        stale = ContainerJob.objects.get(pk=job.pk)
        job.mark_as_running()
        stale.status = "cancelled"
        with pytest.raises(StaleTransition):
            stale.save()
        assert row_of(job)["status"] == "running"
        job.delete()
        with pytest.raises(MissingRow):
            stale.save()
        assert not ContainerJob.objects.exists()

    def test_an_insert_does_not_go_through_do_update(self, asked: list[list[str]]) -> None:
        job = ContainerJob(command="true")
        job.save()
        ContainerJob(command="true").save(force_insert=True)
        assert asked == []
        assert not job._state.adding
