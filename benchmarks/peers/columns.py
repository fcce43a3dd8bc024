"""The columns and indexes of ContainerJob, without its rules: every contender writes to rows of the same width."""

from __future__ import annotations

from django.db import models

from container_manager.models import ContainerJob


class JobColumns(models.Model):
    """ContainerJob's columns, made from its own fields."""

    class Meta:
        abstract = True
        indexes = [
            models.Index(fields=index.fields, name=f"%(class)s_{number}", condition=index.condition)
            for number, index in enumerate(ContainerJob._meta.indexes)
        ]


for _field in ContainerJob._meta.local_fields:
    JobColumns.add_to_class(_field.name, _field.clone())
