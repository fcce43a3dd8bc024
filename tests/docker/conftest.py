import os

import pytest


@pytest.fixture(scope="session")
def docker_url():
    return os.environ["CM_TEST_DOCKER"]
