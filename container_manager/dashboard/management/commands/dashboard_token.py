"""Make a token of the API for a user, list the user's tokens, or revoke one."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from ....jobs.printable import check_printable, escaped
from ...api.authentication import new_token
from ...models import ApiToken


class Command(BaseCommand):
    help = "Make a token of the dashboard's API for a user; it is printed once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="The user's name. The token can do what the user can.")
        parser.add_argument("--name", default="", help="A name to know the token by. Needed to make or revoke one.")
        parser.add_argument("--days", type=int, default=90, help="How long it is valid; 0: for ever. Default: 90.")
        parser.add_argument("--revoke", action="store_true", help="Delete the token of that name.")
        parser.add_argument("--list", action="store_true", help="List the user's tokens.")

    def handle(self, *args: Any, **options: Any) -> None:
        users: Any = get_user_model()
        try:
            user = users._default_manager.get_by_natural_key(options["user"])
        except users.DoesNotExist as error:
            raise CommandError(f"There is no user {options['user']!r}.") from error
        tokens = ApiToken.objects.filter(user=user)
        if options["list"]:
            for token in tokens.order_by("name"):
                self.stdout.write(f"{escaped(token.name)} expires {token.expires_at or 'never'}")
            return
        name = options["name"]
        if not name:
            raise CommandError("Say which token: --name.")
        if options["revoke"]:
            if not tokens.filter(name=name).delete()[0]:
                raise CommandError(f"{options['user']!r} has no token {name!r}; --list shows them.")
            return
        self._check(name, options["days"])
        if tokens.filter(name=name).exists():
            raise CommandError(f"There is a token {name!r} already; --revoke deletes it.")
        lifetime = timedelta(days=options["days"]) if options["days"] else None
        self.stdout.write(new_token(user, name=name, lifetime=lifetime))

    def _check(self, name: str, days: int) -> None:
        if not 0 <= days <= 36_500:
            raise CommandError("--days is a number from 0 to 36500.")
        try:
            check_printable(name)
        except ValueError as error:
            raise CommandError(f"--name: {error}") from error
        if len(name) > 100:
            raise CommandError("--name has at most 100 characters.")
