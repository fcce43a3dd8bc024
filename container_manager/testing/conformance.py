"""What every executor must do: the conformance suite, for pytest.

A test module derives a class from `Conformance` and has a fixture ``harness``, which returns a `Harness`::

    class TestMyExecutor(Conformance):
        @pytest.fixture
        def harness(self, tmp_path):
            return MyHarness(tmp_path)

The plugin `container_manager.testing.pytest_plugin` has pytest explain the suite's assertions.
"""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ..executors.base import (
    SECRETS_VARIABLE,
    Executor,
    ExitStatus,
    LaunchSpec,
    LogChunk,
    Observation,
    Phase,
    Rejected,
    Unavailable,
    Waiting,
)
from ..jobs.spec import JobSpec

# How long the suite waits for what must come. Only a failure takes so long.
PATIENCE_SECONDS = 120.0


class Harness(ABC):
    """Builds one kind of executor, and shows its effects from outside. One is made for each test."""

    @abstractmethod
    def executor(self) -> Executor:
        """Return a new executor, which knows nothing of what others before it started."""

    @abstractmethod
    def effects(self) -> Path:
        """Return an empty folder, which scripts find as ``$EFFECTS`` and may write to."""

    def spec(self, script: str, **fields: Any) -> LaunchSpec:
        """Return what runs a script of the POSIX shell, with ``$EFFECTS``, under a key of its own.

        ``fields`` are those of a `LaunchSpec` or of its job. Override it to add what your engine needs, as an image.
        """
        environment = {"EFFECTS": str(self.effects()), **fields.pop("environment", {})}
        job, rest = job_fields(fields)
        return LaunchSpec(**{"key": new_key(), "argv": ("sh", "-c", script), **rest}, job=job, environment=environment)

    def missing_program(self) -> LaunchSpec:
        """Return what would run a program called ``no-such-program``."""
        spec = self.spec("true")
        return LaunchSpec(key=spec.key, argv=("no-such-program",), job=JobSpec(image=spec.job.image))

    def secret_folders(self, key: str) -> Sequence[Path]:
        """Return the folders of the host that have the secret files of the launch with this key, if they exist.

        Asked of executors with the capability `secret_files` only.
        """
        raise NotImplementedError("The harness of an executor that delivers secret files has `secret_folders`.")


def job_fields(fields: Mapping[str, Any]) -> tuple[JobSpec, dict[str, Any]]:
    """Return what describes a job among the arguments of a launch, and the rest."""
    ours = {name: value for name, value in fields.items() if name in JobSpec._fields and name != "environment"}
    return JobSpec(**ours), {name: value for name, value in fields.items() if name not in ours}


def new_key() -> str:
    """Return the key of another launch."""
    return f"cm-test-{uuid.uuid4().hex}-1"


def submitted(executor: Executor, spec: LaunchSpec) -> str:
    """Submit an attempt until its launch waits for nothing any more; return its handle."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return executor.submit(spec)
        except Waiting as waiting:
            waiting.until.result(max(0.0, deadline - time.monotonic()))


def wait_until(executor: Executor, reached: Callable[[], object]) -> None:
    """Wait for something that the executor's events announce."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        executor.watch(0.05)


def observation(executor: Executor, key: str) -> Observation | None:
    """Return what an executor sees of an attempt; None if it holds none with this key."""
    return next((found for found in executor.observe().attempts if found.key == key), None)


def ended(executor: Executor, key: str) -> ExitStatus:
    """Wait until an attempt has exited; return how."""

    def has_exited() -> bool:
        found = observation(executor, key)
        return found is not None and found.phase is Phase.EXITED

    wait_until(executor, has_exited)
    found = observation(executor, key)
    assert found is not None
    assert found.exit is not None
    return found.exit


def output(executor: Executor, handle: str, *, limit: int = 1 << 20) -> list[LogChunk]:
    """Read an attempt's output to its end, page by page."""
    chunks: list[LogChunk] = []
    cursor, deadline = "", time.monotonic() + PATIENCE_SECONDS
    while True:
        page = executor.logs(handle, cursor, limit)
        chunks += page.chunks
        cursor = page.cursor
        if page.complete:
            return chunks
        assert time.monotonic() < deadline
        if not page.chunks:
            executor.watch(0.05)


def text(chunks: list[LogChunk], stream: str = "stdout") -> bytes:
    """Return what one stream has said."""
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


def printed(executor: Executor, chunks: list[LogChunk]) -> tuple[bytes, ...]:
    """Return what came on stdout and on stderr; where an executor does not tell, all, sorted by its characters."""
    if executor.capabilities.separate_streams:
        return text(chunks), text(chunks, "stderr")
    return (bytes(sorted(text(chunks))), text(chunks, "stderr"))


def together(executor: Executor, stdout: bytes, stderr: bytes) -> tuple[bytes, ...]:
    """Return what `printed` returns for this output."""
    if executor.capabilities.separate_streams:
        return stdout, stderr
    return bytes(sorted(stdout + stderr)), b""


class Conformance:
    """The suite. Each test has an executor of its own, which is closed afterwards.

    A test that does not apply to an executor is left out by ``test_… = None`` in the derived class.
    """

    @pytest.fixture
    def executor(self, harness: Harness) -> Iterator[Executor]:
        executor = harness.executor()
        yield executor
        executor.close()

    def run(self, executor: Executor, spec: LaunchSpec) -> tuple[ExitStatus, list[LogChunk]]:
        handle = submitted(executor, spec)
        chunks = output(executor, handle)
        return ended(executor, spec.key), chunks

    def test_a_command_runs_and_its_exit_is_reported(self, harness: Harness, executor: Executor) -> None:
        status, chunks = self.run(executor, harness.spec("echo out; echo err >&2"))
        assert (status.code, status.signal, status.succeeded, status.oom, status.lost) == (0, None, True, False, False)
        assert printed(executor, chunks) == together(executor, b"out\n", b"err\n")

    def test_an_exit_code_and_a_signal_are_told_apart(self, harness: Harness, executor: Executor) -> None:
        assert self.run(executor, harness.spec("exit 7"))[0].code == 7
        status, _ = self.run(executor, harness.spec("kill -KILL $$"))
        assert status.code in (None, 137)
        assert not status.succeeded

    def test_a_key_runs_once_however_often_it_is_submitted(self, harness: Harness, executor: Executor) -> None:
        spec = harness.spec("echo ran >> $EFFECTS/runs; sleep 0.2")
        handles: list[str] = []
        barrier = threading.Barrier(6)

        def submit() -> None:
            barrier.wait()
            handles.append(submitted(executor, spec))

        threads = [threading.Thread(target=submit) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended(executor, spec.key)
        assert submitted(executor, spec) == handles[0]
        assert len(handles) == 6
        assert len(set(handles)) == 1
        assert (harness.effects() / "runs").read_text() == "ran\n"
        assert [found.key for found in executor.observe().attempts] == [spec.key]

    def test_a_missing_program_is_said_to_be_missing_and_leaves_nothing(
        self, harness: Harness, executor: Executor
    ) -> None:
        spec = harness.missing_program()
        try:
            handle = submitted(executor, spec)
        except Rejected as rejection:
            reason, message = rejection.reason, str(rejection)
        else:
            # Where an init process starts the command, its failure is an end.
            status = ended(executor, spec.key)
            reason, message = "start" if status.unstarted else "", status.message
            executor.remove(handle)
        assert reason == "start"
        assert "no-such-program" in message
        assert observation(executor, spec.key) is None

    def test_secret_files_are_in_memory_where_the_job_alone_finds_them_and_gone_with_it(
        self, harness: Harness, executor: Executor
    ) -> None:
        if not executor.capabilities.secret_files:
            pytest.skip("This executor delivers no secret files; jobs that have some are rejected before it.")
        script = f'cd "${SECRETS_VARIABLE}"; ls; cat key; stat -f -c %T . >&2; touch new 2>/dev/null || true'
        spec = replace(harness.spec(script), secret_files={"key": b"correct\0horse"})
        status, chunks = self.run(executor, spec)
        assert status.code == 0
        assert printed(executor, chunks) == together(executor, b"key\ncorrect\0horse", b"tmpfs\n")
        assert len(harness.secret_folders(spec.key)) == 1
        executor.remove(spec.key)
        wait_until(executor, lambda: not harness.secret_folders(spec.key))

    def test_observe_lists_all_attempts_in_one_call(self, harness: Harness, executor: Executor) -> None:
        specs = [harness.spec("sleep 600"), harness.spec("true"), harness.spec("exit 3")]
        for spec in specs:
            submitted(executor, spec)
        ended(executor, specs[1].key)
        ended(executor, specs[2].key)
        found = {o.key: (o.phase, o.exit.code if o.exit else None) for o in executor.observe().attempts}
        assert found == {
            specs[0].key: (Phase.RUNNING, None),
            specs[1].key: (Phase.EXITED, 0),
            specs[2].key: (Phase.EXITED, 3),
        }
        executor.remove(specs[0].key)

    def test_stopping_lets_a_command_end_itself(self, harness: Harness, executor: Executor) -> None:
        spec = harness.spec("trap 'echo bye; exit 5' TERM; echo ready > $EFFECTS/ready; while :; do sleep 0.05; done")
        handle = submitted(executor, spec)
        wait_until(executor, (harness.effects() / "ready").exists)
        executor.stop(handle, 30.0)
        executor.stop(handle, 30.0)
        assert ended(executor, spec.key).code == 5
        assert b"bye\n" in text(output(executor, handle))
        executor.stop(handle, 0.0)
        assert ended(executor, spec.key).code == 5

    def test_a_command_that_ignores_term_is_killed(self, harness: Harness, executor: Executor) -> None:
        spec = harness.spec("trap '' TERM; echo ready > $EFFECTS/ready; while :; do sleep 0.05; done")
        handle = submitted(executor, spec)
        wait_until(executor, (harness.effects() / "ready").exists)
        executor.stop(handle, 0.1)
        status = ended(executor, spec.key)
        assert status.signal == 9 or status.code == 137

    def test_a_grace_period_can_be_ended_before_its_time(self, harness: Harness, executor: Executor) -> None:
        spec = harness.spec("trap 'touch $EFFECTS/told' TERM; touch $EFFECTS/ready; while :; do sleep 0.05; done")
        handle = submitted(executor, spec)
        wait_until(executor, (harness.effects() / "ready").exists)
        executor.stop(handle, 86400.0)
        wait_until(executor, (harness.effects() / "told").exists)
        # The longer one that is asked for later is no extension.
        executor.stop(handle, 0.0)
        executor.stop(handle, 86400.0)
        status = ended(executor, spec.key)
        assert status.signal == 9 or status.code == 137

    def test_removing_twice_is_harmless_and_kills_the_command(self, harness: Harness, executor: Executor) -> None:
        spec = harness.spec("while :; do echo beat >> $EFFECTS/beat; sleep 0.05; done")
        handle = submitted(executor, spec)
        wait_until(executor, (harness.effects() / "beat").exists)
        executor.remove(handle)
        executor.remove(handle)
        wait_until(executor, lambda: observation(executor, spec.key) is None)
        assert executor.logs(handle, "", 1000).chunks in ((), [])

    def test_output_is_read_on_from_a_cursor(self, harness: Harness, executor: Executor) -> None:
        spec = harness.spec("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
        handle = submitted(executor, spec)
        ended(executor, spec.key)
        chunks = output(executor, handle, limit=4096)
        assert text(chunks) == b"".join(b"line %d\n" % number for number in range(3000))

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            (r"printf '\377\376\000\001no newline'", b"\xff\xfe\x00\x01no newline"),
            ("head -c 10000000 /dev/zero", b"\0" * 10_000_000),
        ],
        ids=["bytes", "one long line"],
    )
    def test_output_keeps_any_bytes(self, harness: Harness, executor: Executor, script: str, expected: bytes) -> None:
        status, chunks = self.run(executor, harness.spec(script))
        assert status.code == 0
        assert text(chunks) == expected

    def test_a_fast_exit_loses_no_output(self, harness: Harness, executor: Executor) -> None:
        for number in range(20):
            _, chunks = self.run(executor, harness.spec(f"echo {number}; echo problem >&2; exit 1"))
            assert printed(executor, chunks) == together(executor, f"{number}\n".encode(), b"problem\n")

    def test_watch_returns_when_an_attempt_ends(self, harness: Harness, executor: Executor) -> None:
        submitted(executor, harness.spec("sleep 0.2"))
        told = threading.Event()

        def watch() -> None:
            while not executor.watch(PATIENCE_SECONDS):
                pass
            told.set()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        assert told.wait(PATIENCE_SECONDS)

    def test_a_command_gets_only_the_given_environment(
        self, harness: Harness, executor: Executor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THE_WORKER", "private")
        spec = harness.spec("env", environment={"GIVEN": "two words\nand a line"})
        _, chunks = self.run(executor, spec)
        assert b"GIVEN=two words\nand a line\n" in text(chunks)
        assert b"OF_THE_WORKER" not in text(chunks)
        assert "two words" not in repr(spec)

    def test_a_closed_executor_is_not_available(self, harness: Harness, executor: Executor) -> None:
        assert executor.check().ok
        executor.close()
        assert not executor.check().ok
        with pytest.raises(Unavailable):
            executor.submit(harness.spec("true"))

    def test_another_executor_finds_only_attempts_that_survive(self, harness: Harness) -> None:
        first = harness.executor()
        spec = harness.spec("echo ran >> $EFFECTS/runs; sleep 600")
        handle = submitted(first, spec)
        # There before it is written.
        runs = harness.effects() / "runs"
        wait_until(first, lambda: runs.exists() and runs.read_text())
        began = time.monotonic()
        wait_until(first, lambda: first.observe().as_of >= began)
        engine = first.observe().engine
        first.close()
        second = harness.executor()
        began = time.monotonic()
        try:
            wait_until(second, lambda: second.observe().as_of >= began)
            assert second.observe().engine == engine
            assert len(engine) <= 64
            found = observation(second, spec.key)
            if second.capabilities.survives_worker:
                assert found is not None
                assert found.phase is Phase.RUNNING
                assert submitted(second, spec) == handle
                second.remove(handle)
            else:
                assert found is None
            assert runs.read_text() == "ran\n"
        finally:
            second.close()
