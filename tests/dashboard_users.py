"""Users of the dashboard, by what they may do."""

from __future__ import annotations

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission, User

from container_manager.dashboard.access import Act
from container_manager.querysets import ContainerJobQuerySet

# `CONTAINER_MANAGER["VISIBLE_JOBS"]` of the tests that need a rule.
TEAM_RULE = f"{__name__}.jobs_of_team"


def user_who_may(*acts: Act, name: str = "ada") -> User:
    """Create a user with these permissions and no others, whose team has the user's name."""
    user = User.objects.create_user(name)
    if not Permission.objects.filter(codename="see_output").exists():
        # A flush takes them along.
        create_permissions(apps.get_app_config("container_manager"), verbosity=0)
    codenames = [act.permission.partition(".")[2] for act in acts]
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return User.objects.get(pk=user.pk)


def jobs_of_team(user: User, jobs: ContainerJobQuerySet) -> ContainerJobQuerySet:
    return jobs.filter(labels__team=user.get_username())
