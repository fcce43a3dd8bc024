"""The guard beside other people's code: overrides of the same hook, filtered managers, attributes that refuse."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from container_manager.statemachine import StaleTransition
from tests.machines.models import REVIEW, Article, Locked, LockedArticle, RecordModified, RelayedArticle, Sealed

pytestmark = pytest.mark.django_db


@pytest.fixture
def article() -> Article:
    return Article.objects.create(title="News")


def as_(model: type[Any], article: Article) -> Any:
    return model._base_manager.get(pk=article.pk)


@pytest.mark.parametrize("model", [RelayedArticle, LockedArticle])
def test_a_save_works_with_an_override_that_names_its_arguments(model: type[Any], article: Article) -> None:
    mine, stale = as_(model, article), as_(model, article)
    mine.stage = REVIEW
    mine.save()
    mine.save(update_fields=["stage"])
    stale.stage = REVIEW
    with pytest.raises(StaleTransition):
        stale.save()
    assert Article.objects.get().stage == REVIEW


def test_the_condition_of_an_override_before_the_guard_is_kept(article: Article) -> None:
    mine, other = as_(LockedArticle, article), as_(LockedArticle, article)
    mine._title, mine.title = "News", "Olds"
    mine.save()
    other.title = other._title = "News"
    with pytest.raises(RecordModified), transaction.atomic():
        other.save()
    assert Article.objects.get().title == "Olds"


def test_an_override_after_the_guard_is_called() -> None:
    mine = Locked.objects.create(title="News")
    other, stale = Locked.objects.get(), Locked.objects.get()
    mine._title, mine.title, mine.state = "News", "Olds", "shut"
    mine.save()
    assert (Locked.objects.get().title, Locked.objects.get().state) == ("Olds", "shut")
    other.title = other._title = "News"
    with pytest.raises(RecordModified), transaction.atomic():
        other.save()
    stale._title, stale.state = "Olds", "shut"
    with pytest.raises(RecordModified), transaction.atomic():
        stale.save()


def test_a_protected_state_is_changed_by_transitions_only() -> None:
    sealed = Sealed.objects.create()
    with pytest.raises(AttributeError, match="protected"):
        sealed.state = "shut"
    sealed.transition_to("shut")
    assert (sealed.state, sealed.seal) == ("shut", "wax") == Sealed.objects.values_list("state", "seal").get()
    sealed.transition_to("open", save=False)
    sealed.save()
    assert sealed.state == "open" == Sealed.objects.get().state


def test_an_effect_on_an_attribute_that_refuses_assignment_is_in_the_row_and_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Sealed, name: str, value: object) -> None:
        if name == "seal":
            raise ValueError("The seal is fixed.")
        object.__setattr__(self, name, value)

    sealed = Sealed.objects.create()
    monkeypatch.setattr(Sealed, "__setattr__", refuse)
    sealed.transition_to("shut")
    assert (sealed.state, sealed.seal) == ("shut", "wax") == Sealed.objects.values_list("state", "seal").get()


def test_a_refused_transition_of_a_protected_state_leaves_memory_as_it_was() -> None:
    sealed = Sealed.objects.create()
    stale = Sealed.objects.get()
    sealed.transition_to("shut")
    with pytest.raises(StaleTransition):
        stale.transition_to("shut")
    assert (stale.state, stale.seal) == ("open", "")
