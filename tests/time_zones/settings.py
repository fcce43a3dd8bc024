"""Settings whose time zones come from the environment, with databases of their own.

CM_TEST_TIME_ZONE: the project's TIME_ZONE with USE_TZ = False. CM_TEST_CONNECTION_ZONE: the TIME_ZONE of the databases. CM_TEST_NAME: an existing database to use instead.
"""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

TIME_ZONE = os.environ.get("CM_TEST_TIME_ZONE", "UTC")
USE_TZ = "CM_TEST_TIME_ZONE" not in os.environ

for _name, _database in DATABASES.items():
    if _database["ENGINE"].endswith("sqlite3"):
        folder = _database["NAME"].parent
        _database["NAME"] = folder / f"zones_{_name}_{os.getpid()}.sqlite3"
        _database["TEST"]["NAME"] = folder / f"test_zones_{_name}_{os.getpid()}.sqlite3"
    else:
        _database.setdefault("TEST", {})["NAME"] = f"test_zones_{_name}_{os.getpid()}"
    if "CM_TEST_CONNECTION_ZONE" in os.environ:
        _database["TIME_ZONE"] = os.environ["CM_TEST_CONNECTION_ZONE"]

if "CM_TEST_NAME" in os.environ:
    DATABASES["default"]["NAME"] = os.environ["CM_TEST_NAME"]
