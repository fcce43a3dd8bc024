"""Measure one database with so many jobs: ``python -m benchmarks.pages.measuring JOBS``.

It fills the database, writes the names of the visits and their queries as a line of JSON, and then makes each visit
that it is told by a line of its input; its answer is a line with the seconds.
"""

from __future__ import annotations

import json
import sys

import django
from django.core.management import call_command
from django.db import connection


def main() -> None:
    django.setup()
    from .filling import fill
    from .visits import Visitor

    if connection.vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute("ALTER DATABASE test CHARACTER SET utf8mb4")
    call_command("migrate", verbosity=0)
    fill(int(sys.argv[1]))
    visitor = Visitor()
    print(json.dumps({name: visitor.queries(name) for name in visitor.names()}), flush=True)
    for line in sys.stdin:
        print(visitor.seconds(line.rstrip("\n")), flush=True)


if __name__ == "__main__":
    main()
