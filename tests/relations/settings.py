"""Settings of a project whose models refer to jobs, with databases of their own."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.relations"]

for _name, _database in DATABASES.items():
    if _database["ENGINE"].endswith("sqlite3"):
        _folder = _database["NAME"].parent
        _database["NAME"] = _folder / f"relations_{_name}_{os.getpid()}.sqlite3"
        _database["TEST"]["NAME"] = _folder / f"test_relations_{_name}_{os.getpid()}.sqlite3"
    else:
        _database.setdefault("TEST", {})["NAME"] = f"test_relations_{_name}_{os.getpid()}"
