"""The Docker executor passes the executors' conformance suite, on a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..executors.conformance import Conformance, Subject
from .subject import DockerSubject


class TestDockerExecutor(Conformance):
    @pytest.fixture
    def subject(self, docker_url: str, tmp_path: Path) -> Iterator[Subject]:
        subject = DockerSubject(docker_url, tmp_path)
        yield subject
        subject.clean_up()
