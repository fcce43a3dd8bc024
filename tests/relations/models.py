"""One model for each way to say what happens to it when its job is deleted."""

from __future__ import annotations

from django.db import models

from container_manager.models import ContainerJob, JobAttempt


class Named(models.Model):
    """A row with a text to find it by."""

    name = models.CharField(max_length=20, default="")

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.name


class Invoice(Named):
    job = models.ForeignKey(ContainerJob, models.PROTECT, related_name="+")


class Contract(Named):
    job = models.ForeignKey(ContainerJob, models.RESTRICT)


class Comment(Named):
    job = models.ForeignKey(ContainerJob, models.CASCADE)


class Bill(Named):
    """What protects a comment protects its job."""

    comment = models.ForeignKey(Comment, models.PROTECT)


class Note(Named):
    job = models.ForeignKey(ContainerJob, models.SET_NULL, null=True)


class Remark(Named):
    """Nobody does anything about it, so the database refuses."""

    job = models.ForeignKey(ContainerJob, models.DO_NOTHING)


class Review(Named):
    attempt = models.ForeignKey(JobAttempt, models.CASCADE)


class Report(Named):
    jobs = models.ManyToManyField(ContainerJob)
