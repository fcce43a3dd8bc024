"""The tests' settings, with a database that is there already."""

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES as TEST_DATABASES

ALLOWED_HOSTS = ["testserver"]
DATABASES = {"default": {**TEST_DATABASES["default"], "CONN_MAX_AGE": None}}
if TEST_DATABASES["default"]["ENGINE"].endswith("postgresql"):
    # The server is this run's own: the database that it comes with will do.
    DATABASES["default"]["NAME"] = "postgres"
elif TEST_DATABASES["default"]["ENGINE"].endswith("mysql"):
    DATABASES["default"]["NAME"] = "test"
