"""What a constraint tells Django: the path that migrations import it by, and the message that forms show."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import models
from django.db.migrations.writer import MigrationWriter
from django.test.utils import isolate_apps

from container_manager.statemachine import JournalTable, RowIdField, TransitionConstraint, TransitionJournal

from .jobs import job_in
from .machines.models import DRAFT, PUBLISHED, REVIEW, Article

EDGES: dict[Any, Any] = {"open": ["shut"], "shut": []}
JOURNAL = {
    "field": "state",
    "table": "moves",
    "name": "door_journal",
    "subject": "door_id",
    "version": "version",
    "at": "at",
    "actor": "actor",
    "reason": "reason",
}


class OwnConstraint(TransitionConstraint):
    """A user's subclass, in a module whose path holds the names of this package's modules."""


class OwnJournal(TransitionJournal):
    """Likewise."""


class OwnTable(JournalTable):
    """Likewise."""


class OwnRowId(RowIdField):
    """Likewise."""


OWN = "shop.statemachine.constraint.statemachine.journal.rules"
for own in (OwnConstraint, OwnJournal, OwnTable, OwnRowId):
    own.__module__ = OWN

CONSTRAINTS = {
    "TransitionConstraint": TransitionConstraint(field="state", transitions=EDGES, name="door_state"),
    "TransitionJournal": TransitionJournal(**JOURNAL),
    "JournalTable": JournalTable(name="door_moves"),
}
OWN_CONSTRAINTS = {
    "OwnConstraint": OwnConstraint(field="state", transitions=EDGES, name="door_state"),
    "OwnJournal": OwnJournal(**JOURNAL),
    "OwnTable": OwnTable(name="door_moves"),
}


@pytest.mark.without_database
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_migration_names_a_constraint_by_its_public_path(name: str) -> None:
    assert CONSTRAINTS[name].deconstruct()[0] == f"container_manager.statemachine.{name}"
    code, imports = MigrationWriter.serialize(CONSTRAINTS[name])
    assert code.startswith(f"container_manager.statemachine.{name}(")
    assert imports == {"import container_manager.statemachine"}


@pytest.mark.without_database
@pytest.mark.parametrize("name", OWN_CONSTRAINTS)
def test_a_migration_names_a_subclass_of_a_constraint_by_the_path_of_the_subclass(name: str) -> None:
    assert OWN_CONSTRAINTS[name].deconstruct()[0] == f"{OWN}.{name}"


@pytest.mark.without_database
def test_a_migration_names_the_journal_s_key_by_its_public_path_and_a_subclass_by_its_own() -> None:
    assert RowIdField().deconstruct()[1] == "container_manager.statemachine.RowIdField"
    assert OwnRowId().deconstruct()[1] == f"{OWN}.OwnRowId"


def article_model(**options: Any) -> type[models.Model]:
    """Return a model of the articles' table whose constraint has these options."""

    class Paper(models.Model):
        stage = models.IntegerField(default=DRAFT)

        class Meta:
            app_label = "machines"
            db_table = "machines_article"
            managed = False
            constraints = [
                TransitionConstraint(
                    field="stage",
                    transitions={DRAFT: [REVIEW], REVIEW: [DRAFT, PUBLISHED], PUBLISHED: []},
                    initial=[DRAFT],
                    name="article_stage",
                    **options,
                )
            ]

    return Paper


def refusal_of(instance: models.Model) -> tuple[str, str]:
    """Return the message and the code that full_clean() gives the field."""
    with pytest.raises(ValidationError) as caught:
        instance.full_clean()
    [error] = caught.value.error_dict["stage"]
    return error.messages[0], str(error.code)


@pytest.mark.django_db
@isolate_apps("tests.machines")
def test_validation_shows_the_message_that_the_constraint_was_given() -> None:
    paper = article_model(violation_error_message="%(name)s: not %(target)s!", violation_error_code="stuck")
    existing = paper._base_manager.get(pk=Article.objects.create().pk)
    existing.stage = PUBLISHED  # type: ignore[attr-defined]
    assert refusal_of(existing) == ("article_stage: not 30!", "stuck")
    assert refusal_of(paper(stage=PUBLISHED)) == ("article_stage: not 30!", "stuck")
    assert refusal_of(paper(stage=99)) == ("article_stage: not 99!", "stuck")


@pytest.mark.django_db
@isolate_apps("tests.machines")
def test_validation_names_both_states_if_the_constraint_has_no_message_of_its_own() -> None:
    existing = article_model()._base_manager.get(pk=Article.objects.create().pk)
    existing.stage = PUBLISHED  # type: ignore[attr-defined]
    message = "Invalid transition from 10 to 30. Valid transitions: [20]"
    assert refusal_of(existing) == (message, "invalid_transition")


@pytest.mark.django_db
def test_valid_targets_are_the_states_that_the_instance_may_change_to_in_the_order_of_the_map() -> None:
    article = Article.objects.create()
    assert article.valid_targets() == (REVIEW,)
    article.transition_to(REVIEW)
    assert article.valid_targets() == (DRAFT, PUBLISHED)
    article.transition_to(PUBLISHED)
    assert article.valid_targets() == ()
    assert job_in("failed").valid_targets() == ("retrying", "cancelled")
