"""A model that is no job: integer states, another field name, no journal, a declared initial state."""

from __future__ import annotations

from django.db import models

from container_manager.statemachine import Effect, TransitionConstraint
from container_manager.statemachine.model import StateMachineModel
from container_manager.statemachine.queryset import StateMachineQuerySet

DRAFT, REVIEW, PUBLISHED = 10, 20, 30


class ArticleQuerySet(StateMachineQuerySet["Article"]):
    """Articles."""


class Article(StateMachineModel):
    transition_effects = {PUBLISHED: {"published_at": Effect.NOW}}

    title = models.CharField(max_length=50, default="")
    stage = models.IntegerField(default=DRAFT)
    published_at = models.DateTimeField(null=True)

    objects = ArticleQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(
                field="stage",
                transitions={DRAFT: [REVIEW], REVIEW: [DRAFT, PUBLISHED], PUBLISHED: []},
                initial=[DRAFT],
                name="article_stage",
            )
        ]

    def __str__(self) -> str:
        return self.title
