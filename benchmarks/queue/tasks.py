"""The no-op task of django-tasks-db."""

from django_tasks import task


@task()
def noop() -> None:
    """Do nothing."""
