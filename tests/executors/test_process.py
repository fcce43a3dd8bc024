"""The process executor: the conformance suite, and what only applies to local processes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Executor, LaunchSpec, Phase, Rejected, Unavailable
from container_manager.executors.process import ProcessExecutor
from container_manager.executors.process.local_job import KeeperLink
from container_manager.executors.process.warden.messages import close_all, receive, send
from container_manager.jobs.container_request import ContainerRequest
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import (
    Conformance,
    Harness,
    ended,
    new_key,
    observation,
    output,
    text,
    wait_until,
)

from ..polling import PATIENCE_SECONDS, eventually
from ..processes import has_ended
from .secret_folders import secret_folders

ROOT = Path(__file__).resolve().parent.parent.parent


class ProcessHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def executor(self) -> ProcessExecutor:
        return ProcessExecutor()

    def effects(self) -> Path:
        return self._folder

    def secret_folders(self, key: str) -> list[Path]:
        return secret_folders(key)


@pytest.fixture
def harness(tmp_path: Path) -> ProcessHarness:
    return ProcessHarness(tmp_path)


def children(pid: int | str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def is_waiting(pid: int) -> bool:
    """Tell whether a process sleeps until something happens: it is not in the middle of its work."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@contextlib.contextmanager
def room_for(descriptors: int, *, of: int) -> Iterator[None]:
    """Limit how many more files a process can open."""
    paths = list(Path(f"/proc/{of}/fd").iterdir())
    # The one by which they were listed is there no more.
    used = {int(path.name) for path in paths if path.is_symlink()}
    free = (number for number in range(len(used) + descriptors + 1) if number not in used)
    limit = [next(free) for _ in range(descriptors + 1)][-1]
    before = resource.prlimit(of, resource.RLIMIT_NOFILE)
    resource.prlimit(of, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(of, resource.RLIMIT_NOFILE, before)


def without_privileges(work: Callable[[], None]) -> None:
    """Do something in a thread without capabilities, so that limits apply even to root."""
    failed: list[Exception] = []

    def run() -> None:
        # linux/capability.h: version 3, this thread, none of 64.
        assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
        try:
            work()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def unread(sender: socket.socket) -> int:
    """Return how much of what was sent is still on its way: 0 once the other end has taken it all."""
    (found,) = struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)))
    return int(found)


def count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


TREE = """
setsid sh -c 'echo $$ >> "$EFFECTS/pids"; exec sleep 300' &
(setsid sh -c 'echo $$ >> "$EFFECTS/pids"; exec sleep 300' &) &
echo $$ >> "$EFFECTS/pids"
echo $$ > "$EFFECTS/main"
while [ $(wc -l < "$EFFECTS/pids") -lt 3 ]; do sleep 0.02; done
touch "$EFFECTS/ready"
"""


@pytest.mark.without_database
def test_a_command_and_its_descendants_are_each_told_to_end_once() -> None:
    """Many a program takes a second TERM as a word to end at once. Most often the first one is not taken by then."""
    program = (
        "import subprocess\n"
        "from container_manager.executors.process.warden import keeper\n"
        "told = []\n"
        "keeper.send_signal = lambda pid, number: told.append(pid)\n"
        "command = subprocess.Popen(['sh', '-c', 'sleep 600 & echo $!; wait'], stdout=subprocess.PIPE)\n"
        "descendant = int(command.stdout.readline())\n"
        "keeper._Job(command.pid).stop_within(60.0)\n"
        "assert sorted(told) == sorted([command.pid, descendant]), told\n"
    )
    # A process of its own, since it tells all its descendants; they end with it.
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True) as process:
        try:
            assert process.wait(timeout=PATIENCE_SECONDS) == 0
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.without_database
@pytest.mark.shows(
    "explanation/worker.md#a-worker-is-killed", "explanation/worker.md#a-job-is-cancelled", "reference/jobs.md#secrets"
)
class TestProcessExecutor(Conformance):
    @pytest.mark.parametrize("end", ["exit", "stop", "remove", "close", "keeper", "warden"])
    def test_no_process_of_a_jobs_tree_survives_its_end(
        self, harness: ProcessHarness, executor: ProcessExecutor, end: str
    ) -> None:
        spec = harness.spec(TREE + ("exit 0" if end == "exit" else "sleep 300"))
        handle = executor.submit(spec)
        wait_until(executor, (harness.effects() / "ready").exists)
        pids = (harness.effects() / "pids").read_text().split()
        assert len(pids) == 3
        if end == "stop":
            executor.stop(handle, 0.1)
        elif end == "remove":
            executor.remove(handle)
        elif end == "close":
            executor.close()
        elif end == "keeper":
            main = (harness.effects() / "main").read_text().strip()
            os.kill(int(Path(f"/proc/{main}/stat").read_text().split()[3]), signal.SIGKILL)
        elif end == "warden":
            assert executor._warden.process is not None
            executor._warden.process.kill()
        eventually(lambda: all(map(has_ended, pids)))
        if end in ("keeper", "warden"):
            assert ended(executor, spec.key).lost

    @pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
    def test_a_job_dies_with_its_worker(self, harness: ProcessHarness) -> None:
        program = (
            "import sys, time\n"
            "from container_manager.executors.process import ProcessExecutor\n"
            "from container_manager.executors.base import LaunchSpec\n"
            "ProcessExecutor().submit(LaunchSpec(key='k', argv=('sh', '-c', sys.argv[1]), environment={'EFFECTS': sys.argv[2]}))\n"
            "time.sleep(300)\n"
        )
        arguments = [sys.executable, "-c", program, TREE + "sleep 300", str(harness.effects())]
        worker = subprocess.Popen(arguments, cwd=ROOT)
        eventually((harness.effects() / "ready").exists)
        pids = (harness.effects() / "pids").read_text().split()
        worker.kill()
        worker.wait()
        eventually(lambda: all(map(has_ended, pids)))

    @pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
    def test_the_jobs_of_a_worker_without_heartbeat_are_lost(self, harness: ProcessHarness, executor: Executor) -> None:
        executor.heartbeat(300.0)
        spec = harness.spec("touch $EFFECTS/ready; sleep 300")
        executor.submit(spec)
        # A keeper that has not begun by then is merely gone.
        wait_until(executor, (harness.effects() / "ready").exists)
        executor.heartbeat(0.1)
        status = ended(executor, spec.key)
        assert status.lost
        assert "not heard" in status.message

    def test_a_heartbeat_that_expires_at_once_starts_no_job(self) -> None:
        """The warden's timer is made to fire before the very next step, as it may where the machine is busy."""
        program = (
            "import signal, socket, sys\n"
            "from container_manager.executors.process.warden import dispatch\n"
            "real = signal.setitimer\n"
            "signal.setitimer = lambda *given: (real(*given), signal.raise_signal(signal.SIGALRM))\n"
            "dispatch.main(socket.socket(fileno=int(sys.argv[1])))\n"
        )
        ours, theirs = socket.socketpair()
        control, passed = socket.socketpair()
        command = [sys.executable, "-c", program, str(theirs.fileno())]
        with control, subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]), ours:
            theirs.close()
            send(ours, b'{"heartbeat": 60.0}')
            with passed:
                send(ours, b"{}", [passed.fileno()])
            control.settimeout(PATIENCE_SECONDS)
            assert json.loads(control.recv(4096)) == {"lost": True}

    @pytest.mark.parametrize("moment", ["forked", "listening"])
    def test_a_keeper_that_was_just_forked_when_the_heartbeat_expires_ends(self, moment: str) -> None:
        """The timer fires before the warden has taken note of it, or as soon as it can be told."""
        program = (
            "import os, signal, socket, sys\n"
            "from container_manager.executors.process.warden import dispatch\n"
            "real_fork, real_signal = os.fork, signal.signal\n"
            "def fork():\n"
            "    if pid := real_fork():\n"
            "        signal.raise_signal(signal.SIGALRM)\n"
            "    return pid\n"
            "def handle(number, handler):\n"
            "    before = real_signal(number, handler)\n"
            "    if number == signal.SIGUSR1 and before == signal.SIG_DFL:\n"
            "        signal.raise_signal(number)\n"
            "    return before\n"
            "if sys.argv[2] == 'forked':\n"
            "    os.fork = fork\n"
            "else:\n"
            "    signal.signal = handle\n"
            "dispatch.main(socket.socket(fileno=int(sys.argv[1])))\n"
        )
        ours, theirs = socket.socketpair()
        control, passed = socket.socketpair()
        command = [sys.executable, "-c", program, str(theirs.fileno()), moment]
        with control, subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]), ours:
            theirs.close()
            with passed:
                send(ours, b"{}", [passed.fileno()])
            control.settimeout(PATIENCE_SECONDS)
            assert control.recv(1) == b""

    def test_a_keeper_that_lost_a_job_gets_no_further_job(
        self, harness: ProcessHarness, executor: ProcessExecutor
    ) -> None:
        assert executor.check().ok
        ours, theirs = socket.socketpair()
        with executor._lock:
            executor._pump.add_keeper(KeeperLink(ours))
        lost = harness.spec("true")
        executor.submit(lost)
        with theirs:
            close_all(receive(theirs)[1])
            theirs.sendall(b'{"lost": true}\n')
            assert ended(executor, lost.key).lost
            assert self.run(executor, harness.spec("exit 3"))[0].code == 3
            theirs.settimeout(PATIENCE_SECONDS)
            assert theirs.recv(1) == b""

    def test_a_worker_frozen_in_the_middle_of_a_launch_does_not_start_it_when_it_wakes_up(
        self, harness: ProcessHarness, executor: ProcessExecutor, tmp_path: Path
    ) -> None:
        """A launch that is longer than the socket's buffer is half sent when it freezes, and another worker goes on."""
        assert executor.check().ok
        assert executor._warden.process is not None
        warden = executor._warden.process.pid
        launch = {
            "argv": ["touch", str(tmp_path / "started")],
            "environment": {},
            "working_directory": "",
            "limits": {},
        }
        message = json.dumps(launch).encode()
        with executor._warden.new_keeper() as control:
            socket.send_fds(control, [len(message).to_bytes(4, "big") + message[:10]], [1, 2])
            # Its keeper waits for the rest; one that had not begun to read would end at once.
            eventually(lambda: unread(control) == 0)
            assert len(children(warden)) == 2
            executor.heartbeat(0.01)
            # The keeper that waits for no rest ends.
            eventually(lambda: len(children(warden)) == 1)
            # Whoever took the socket may have closed it by now.
            with suppress(BrokenPipeError):
                control.sendall(message[10:])
            control.settimeout(PATIENCE_SECONDS)
            assert json.loads(control.recv(4096)) == {"lost": True}
            assert control.recv(1) == b""
        assert not (tmp_path / "started").exists()

    def test_a_worker_frozen_in_the_middle_of_a_message_to_its_warden_loses_its_jobs(
        self, harness: ProcessHarness
    ) -> None:
        program = (
            "import contextlib, sys, time\n"
            "from container_manager.executors.process import ProcessExecutor\n"
            "from container_manager.executors.base import LaunchSpec\n"
            "executor = ProcessExecutor()\n"
            "executor.submit(LaunchSpec(key='k', argv=('sh', '-c', sys.argv[1]), environment={'EFFECTS': sys.argv[2]}))\n"
            "while executor.watch(0.01) or not executor.logs('k', '', 100).chunks: pass\n"
            "executor.heartbeat(3.0)\n"
            "with contextlib.suppress(OSError):\n"  # the warden has ended already, on a slow machine
            "    executor._warden.channel.sendall((10_000_000).to_bytes(4, 'big') + bytes(1_000_000))\n"
            "print('frozen', flush=True)\n"
            "time.sleep(300)\n"
        )
        script = "echo $$ > $EFFECTS/pid; echo begun; sleep 300"
        arguments = [sys.executable, "-c", program, script, str(harness.effects())]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            try:
                assert worker.stdout.readline() == b"frozen\n"
                pid = (harness.effects() / "pid").read_text().strip()
                eventually(lambda: has_ended(pid))
            finally:
                worker.kill()

    def test_a_program_is_looked_up_by_the_jobs_own_path_and_directory(
        self, harness: ProcessHarness, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the job's own PATH and in its own directory, whatever the worker would find in its own."""
        for place in ("worker", "job"):
            program = tmp_path / place / "bin" / "program"
            program.parent.mkdir(parents=True)
            program.write_text(f"#!/bin/sh\necho {place}\n")
            program.chmod(0o755)
        monkeypatch.chdir(tmp_path / "worker")
        monkeypatch.setenv("PATH", str(tmp_path / "worker" / "bin"))
        own, where = {"PATH": "bin:/usr/bin:/bin"}, str(tmp_path / "job")
        spec = LaunchSpec(key=new_key(), argv=("program",), environment=own, job=JobSpec(working_directory=where))
        assert text(self.run(executor, spec)[1]) == b"job\n"
        # Its name is what was asked for.
        spec = LaunchSpec(
            key=new_key(), argv=("sh", "-c", "echo $0"), environment=own, job=JobSpec(working_directory=where)
        )
        assert text(self.run(executor, spec)[1]) == b"sh\n"

    def test_a_launch_larger_than_the_sockets_buffer_comes_through(
        self, harness: ProcessHarness, executor: Executor
    ) -> None:
        environment = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
        _, chunks = self.run(executor, harness.spec("env | grep ^LARGE_ | wc -c", environment=environment))
        assert int(text(chunks)) == 10 * 100_009

    def test_a_job_has_its_own_session_and_no_input(self, harness: ProcessHarness, executor: Executor) -> None:
        status, chunks = self.run(executor, harness.spec("ps -o sid= -p $$; echo $$; wc -c; readlink /proc/$$/fd/0"))
        session, pid, size, source = text(chunks).split()
        assert (status.code, session, size, source) == (0, pid, b"0", b"/dev/null")

    def test_a_job_starts_with_default_signal_handling_whatever_its_worker_ignores_and_blocks(
        self, harness: ProcessHarness
    ) -> None:
        ignored_before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            with contextlib.closing(ProcessExecutor()) as executor:
                # Without a shell, which would reset some of it.
                argv = ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
                _, chunks = self.run(executor, LaunchSpec(key=new_key(), argv=argv))
        finally:
            signal.signal(signal.SIGQUIT, ignored_before)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        blocked, ignored = (int(line.split()[1], 16) for line in text(chunks).splitlines())
        # Beyond the 31 signals of POSIX the C library keeps some for itself.
        assert (blocked & 0x7FFFFFFF, ignored & 0x7FFFFFFF) == (0, 0)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
    @pytest.mark.shows("howto/worker.md#run-workers-under-systemd")
    def test_a_signal_that_is_meant_for_the_worker_ends_neither_its_warden_nor_the_keeper_of_a_job(
        self, harness: ProcessHarness, number: signal.Signals
    ) -> None:
        """An init system sends it to all processes of a service at once, also to those that have only just started."""
        os.mkfifo(harness.effects() / "go")
        with contextlib.closing(ProcessExecutor()) as executor:
            assert executor.check().ok
            assert executor._warden.process is not None
            warden = executor._warden.process.pid
            os.kill(warden, number)
            spec = harness.spec("read word < $EFFECTS/go; exit 4")
            executor.submit(spec)
            eventually(lambda: any(map(children, children(warden))))
            for pid in (warden, *map(int, children(warden))):
                os.kill(pid, number)
            (harness.effects() / "go").write_text("\n")
            assert ended(executor, spec.key).code == 4
            assert self.run(executor, harness.spec("exit 3"))[0].code == 3

    def test_a_job_can_be_ended_by_the_signals_that_its_keeper_does_not_heed(
        self, harness: ProcessHarness, executor: Executor
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            assert self.run(executor, harness.spec(f"kill -{number} $$"))[0].signal == number

    def test_killing_all_processes_named_python_spares_warden_and_keepers(
        self, harness: ProcessHarness, executor: ProcessExecutor
    ) -> None:
        self.run(executor, harness.spec("true"))
        assert executor._warden.process is not None
        warden = executor._warden.process.pid
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in (warden, *children(warden))]
        assert names == ["cm-warden\n", "cm-keeper\n"]

    @pytest.mark.parametrize(
        ("argv", "directory", "words"),
        [
            (("/etc/passwd",), "", "Permission denied"),
            (("no-such-program",), "", "No such file"),
            (("true",), "/no/such/folder", "does not exist"),
            (("true", "a\0b"), "", "Invalid argument"),
        ],
    )
    def test_a_command_that_cannot_start_says_why(
        self, executor: Executor, argv: tuple[str, ...], directory: str, words: str
    ) -> None:
        spec = LaunchSpec(key=new_key(), argv=argv, job=JobSpec(working_directory=directory))
        executor.submit(spec)
        status = ended(executor, spec.key)
        assert (status.unstarted, status.code, status.signal) == (True, None, None)
        assert words in status.message

    def test_a_job_without_command_is_rejected(self, executor: Executor) -> None:
        with pytest.raises(Rejected, match="no command"):
            executor.submit(LaunchSpec(key=new_key(), argv=()))

    @pytest.mark.parametrize(
        ("asked", "container", "named"),
        [
            ({"image": "busybox"}, {}, "image"),
            ({"cpu_count": 1.0}, {}, "cpu_count"),
            ({}, {"user": "app", "read_only": True}, "user, read_only"),
            ({}, {"pids": 5, "ulimits": {"nofile": 9}}, "pids, ulimits"),
            ({}, {"tmpfs": {"/run": 9}, "volumes": {"data": "/data"}}, "tmpfs, volumes"),
            ({"image": "busybox"}, {"network": "inner", "gpus": -1}, "image, network, gpus"),
            ({}, {"entrypoint": "sh", "platform": "linux/arm64", "shm_bytes": 9}, "entrypoint, platform, shm_bytes"),
            ({}, {"extra_hosts": ["db"], "dns": ["192.0.2.1"]}, "extra_hosts, dns"),
        ],
    )
    def test_isolation_that_a_local_process_cannot_have_is_rejected_by_name_unless_it_is_ignored(
        self, executor: Executor, asked: dict[str, Any], container: dict[str, Any], named: str
    ) -> None:
        spec = LaunchSpec(key=new_key(), argv=("true",), job=JobSpec(**asked), container=ContainerRequest(**container))
        with pytest.raises(Rejected, match=rf"asks for: {named}\. .*'ignore_isolation'") as rejected:
            executor.submit(spec)
        assert rejected.value.reason == "start"
        with contextlib.closing(ProcessExecutor(ignore_isolation=True)) as lenient:
            lenient.submit(spec)
            assert ended(lenient, spec.key).succeeded

    def test_a_container_request_that_asks_for_nothing_is_no_isolation(self, executor: Executor) -> None:
        spec = LaunchSpec(key=new_key(), argv=("true",), container=ContainerRequest(read_only=False))
        executor.submit(spec)
        assert ended(executor, spec.key).succeeded

    def test_a_job_runs_in_its_working_directory(
        self, harness: ProcessHarness, executor: Executor, tmp_path: Path
    ) -> None:
        _, chunks = self.run(executor, harness.spec("pwd", working_directory=str(tmp_path)))
        assert text(chunks).decode().strip() == str(tmp_path)

    def test_memory_is_limited_and_measured(self, harness: ProcessHarness, executor: Executor) -> None:
        hungry = [sys.executable, "-c", "x = b'x' * (64 * 1024 * 1024)"]
        free = LaunchSpec(key=new_key(), argv=tuple(hungry))
        status, _ = self.run(executor, free)
        assert status.code == 0
        assert status.peak_memory_bytes > 64 * 1024 * 1024
        limited = LaunchSpec(key=new_key(), argv=tuple(hungry), job=JobSpec(memory_bytes=48 * 1024 * 1024))
        assert not self.run(executor, limited)[0].succeeded

    def test_processor_time_is_limited_and_measured(self, harness: ProcessHarness) -> None:
        executor = ProcessExecutor(cpu_seconds=1)
        try:
            status, _ = self.run(executor, harness.spec("while :; do :; done"))
        finally:
            executor.close()
        assert status.signal in (signal.SIGXCPU, signal.SIGKILL)
        assert 0.5 < status.cpu_seconds < 5

    def test_open_files_are_limited_and_variables_passed_on_by_name(
        self, harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHARED", "yes")
        executor = ProcessExecutor(open_files=64, inherit_environment=["SHARED", "ABSENT"])
        try:
            _, chunks = self.run(executor, harness.spec("ulimit -n; echo $SHARED"))
        finally:
            executor.close()
        assert text(chunks) == b"64\nyes\n"

    def test_64_megabytes_of_process_output_leave_memory_flat(
        self, harness: ProcessHarness, executor: Executor
    ) -> None:
        self.run(executor, harness.spec("true"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spec = harness.spec("head -c 64000000 /dev/zero & head -c 64000000 /dev/zero >&2; wait")
        handle = executor.submit(spec)
        sizes, cursor = {"stdout": 0, "stderr": 0}, ""
        while True:
            page = executor.logs(handle, cursor, 1 << 20)
            cursor = page.cursor
            for chunk in page.chunks:
                sizes[chunk.stream] += len(chunk.data)
            if page.complete:
                break
            executor.watch(0.02)
        assert sizes == {"stdout": 64_000_000, "stderr": 64_000_000}
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 30_000_000

    def test_output_left_in_a_pipe_is_read_however_late(
        self, harness: ProcessHarness, executor: ProcessExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread that reads is held up, for longer than an unrelated holder of the pipe is waited for."""
        read = os.read

        def held_up(descriptor: int, size: int) -> bytes:
            time.sleep(0.05)
            return read(descriptor, size)

        monkeypatch.setattr("container_manager.executors.process.output_pump._DRAIN_SECONDS", 0.01)
        monkeypatch.setattr("container_manager.executors.process.output_pump.os.read", held_up)
        # More than is fetched before any of it is taken, and the rest fits into the pipe: the command ends.
        size = 1_100_000
        handle = executor.submit(harness.spec(f"head -c {size} /dev/zero"))
        wait_until(executor, lambda: executor._pump.jobs[handle].exit is not None)
        assert len(text(output(executor, handle))) == size
        assert ended(executor, handle).code == 0

    def test_many_jobs_leave_no_descriptor_and_no_zombie(
        self, harness: ProcessHarness, executor: ProcessExecutor
    ) -> None:
        executor.submit(harness.spec("exec sleep 300"))
        before = count(Path("/proc/self/fd"))
        for _ in range(4):
            specs = [harness.spec("true") for _ in range(50)]
            for spec in specs:
                executor.submit(spec)
            for spec in specs:
                ended(executor, spec.key)
                executor.remove(spec.key)
        assert executor._warden.process is not None
        warden = executor._warden.process.pid
        # Those that wait for a job, of whom the worker has one descriptor each, and that of the job that runs.
        eventually(lambda: len(children(warden)) == len(executor._pump.idle) + 1 <= 33)
        eventually(lambda: count(Path("/proc/self/fd")) == before + len(executor._pump.idle))
        assert len([child for keeper in children(warden) for child in children(keeper)]) == 1

    def test_a_keeper_runs_one_job_after_another_and_counts_what_each_uses(
        self, harness: ProcessHarness, executor: ProcessExecutor
    ) -> None:
        burn = "import time; x = b'x' * (64 * 1024 * 1024)\nwhile time.process_time() < 0.3: pass"
        first, _ = self.run(executor, LaunchSpec(key=new_key(), argv=(sys.executable, "-c", burn)))
        # What is an orphan by the time that it ends counts too.
        burn += "\nopen('burnt', 'w')"
        script = f'({sys.executable} -c "{burn}" &); until [ -e burnt ]; do sleep 0.01; done; ps -o ppid= -p $$'
        second, chunks = self.run(executor, harness.spec(script, working_directory=str(harness.effects())))
        third, more = self.run(executor, harness.spec("ps -o ppid= -p $$"))
        assert text(chunks) == text(more)
        for status in (first, second):
            assert status.cpu_seconds >= 0.3 > third.cpu_seconds
            assert status.peak_memory_bytes > 64 * 1024 * 1024 > third.peak_memory_bytes

    @pytest.mark.parametrize("count", [1, 30], ids=["alone", "in a burst"])
    def test_a_job_finds_only_its_three_standard_streams_open(
        self, harness: ProcessHarness, executor: ProcessExecutor, count: int
    ) -> None:
        # Twice: by new keepers, and by those that have run a job before.
        for _ in range(2):
            specs = [harness.spec("ls /proc/$$/fd; true") for _ in range(count)]
            for spec in specs:
                executor.submit(spec)
            assert {text(output(executor, spec.key)) for spec in specs} == {b"0\n1\n2\n"}

    @pytest.mark.parametrize("count", [1, 30], ids=["alone", "in a burst"])
    def test_a_job_cannot_forge_its_own_end(self, executor: ProcessExecutor, count: int) -> None:
        program = """
import os, sys
for descriptor in range(3, 100):
    try:
        os.write(descriptor, b'{"code": 0, "signal": null, "lost": false}\\n')
    except OSError:
        pass
sys.exit(9)
"""
        for _ in range(2):
            specs = [LaunchSpec(key=new_key(), argv=(sys.executable, "-I", "-S", "-c", program)) for _ in range(count)]
            for spec in specs:
                executor.submit(spec)
            assert {ended(executor, spec.key).code for spec in specs} == {9}

    @pytest.mark.parametrize(
        "report",
        [
            b"oops\n",
            b"[]\n",
            b"{}\n",
            b"[" * 60_000 + b"\n",
            b"x" * 100_000,
            b"\xff\n",
            b'{"lost": 1}\n',
            b'{"lost": false}\n',
            b'{"lost": false, "code": 0, "signal": 9}\n',
            b'{"lost": false, "code": "0"}\n',
            b'{"lost": false, "code": 256}\n',
            b'{"lost": false, "code": true}\n',
            b'{"lost": false, "code": 0, "cpu_seconds": NaN}\n',
            b'{"lost": false, "code": 0, "peak_memory_bytes": 1e400}\n',
            b'{"error": -1}\n',
        ],
        ids=lambda report: report[:50].decode("latin-1").strip(),
    )
    def test_a_malformed_report_loses_only_its_own_job(
        self, harness: ProcessHarness, executor: ProcessExecutor, report: bytes
    ) -> None:
        """The test is the keeper of one job, beside a real one."""
        os.mkfifo(harness.effects() / "go")
        other = harness.spec("read word < $EFFECTS/go; exit 4")
        executor.submit(other)
        spec = harness.spec("true")
        ours, theirs = socket.socketpair()
        with executor._lock:
            # The one that began to wait last gets the next job.
            executor._pump.add_keeper(KeeperLink(ours))
        executor.submit(spec)
        with theirs:
            message, streams = receive(theirs)
            assert message is not None
            close_all(streams)
            theirs.sendall(report)
            # A keeper that reads the end kills the command; nothing that it says counts any more.
            theirs.settimeout(PATIENCE_SECONDS)
            assert theirs.recv(1) == b""
            assert observation(executor, spec.key).phase is Phase.RUNNING
            theirs.sendall(b'{"code": 0, "signal": null, "lost": false}\n')
        status = ended(executor, spec.key)
        assert (status.lost, status.code) == (True, None)
        assert "not understood" in status.message
        (harness.effects() / "go").write_text("\n")
        assert ended(executor, other.key).code == 4

    @pytest.mark.parametrize("launch", [b"{", b"[]", b"{}", b'{"argv": 1, "limits": 1}', b"\xff"])
    def test_a_malformed_launch_loses_only_its_own_job(
        self, harness: ProcessHarness, executor: ProcessExecutor, launch: bytes
    ) -> None:
        assert executor.check().ok
        with executor._warden.new_keeper() as control:
            send(control, launch, (1, 2))
            control.settimeout(PATIENCE_SECONDS)
            assert json.loads(control.recv(4096)) == {"lost": True}
        assert self.run(executor, harness.spec("exit 3"))[0].code == 3

    # The last is the length of a message that does not come.
    @pytest.mark.parametrize(
        "request_", [*map(framed, [b"oops", b"{}", b'{"stop": "now"}', b'{"stop": NaN}']), b"oops"]
    )
    def test_a_malformed_request_to_a_keeper_loses_only_its_own_job(
        self, harness: ProcessHarness, executor: ProcessExecutor, request_: bytes
    ) -> None:
        specs = [harness.spec("echo begun; sleep 300") for _ in range(2)]
        for spec in specs:
            executor.submit(spec)
            wait_until(executor, lambda key=spec.key: executor.logs(key, "", 100).chunks)
        keeper = executor._pump.jobs[specs[0].key].keeper
        assert keeper is not None
        keeper.control.sendall(request_)
        assert ended(executor, specs[0].key).lost
        assert observation(executor, specs[1].key).phase is Phase.RUNNING

    @pytest.mark.parametrize(
        "message", [b"oops", b"[]", b"{}", b'{"heartbeat": "soon"}', b'{"heartbeat": NaN}', b'{"heartbeat": 1e300}']
    )
    def test_a_malformed_heartbeat_is_ignored(
        self, harness: ProcessHarness, executor: ProcessExecutor, message: bytes
    ) -> None:
        assert executor.check().ok
        assert executor._warden.channel is not None
        send(executor._warden.channel, message)
        assert self.run(executor, harness.spec("exit 3"))[0].code == 3

    @pytest.mark.parametrize("victim", ["keeper", "warden"])
    def test_a_warden_or_keeper_that_was_killed_while_idle_is_replaced(
        self, harness: ProcessHarness, executor: ProcessExecutor, victim: str
    ) -> None:
        self.run(executor, harness.spec("true"))
        assert executor._warden.process is not None
        warden = str(executor._warden.process.pid)
        [keeper] = children(warden)
        os.kill(int(keeper if victim == "keeper" else warden), signal.SIGKILL)
        eventually(lambda: has_ended(keeper))
        assert self.run(executor, harness.spec("exit 3"))[0].code == 3

    @pytest.mark.parametrize("room", range(6))
    def test_a_launch_without_free_descriptors_is_unavailable_and_works_later(
        self, harness: ProcessHarness, executor: ProcessExecutor, room: int
    ) -> None:
        running = harness.spec("read word < $EFFECTS/go; exit 4")
        os.mkfifo(harness.effects() / "go")
        executor.submit(running)
        descriptors = count(Path("/proc/self/fd"))
        spec = harness.spec("exit 3")
        # No keeper waits: two descriptors for a new one, and four for the job.
        with room_for(room, of=os.getpid()), pytest.raises(Unavailable, match="Too many open files"):
            executor.submit(spec)
        eventually(lambda: count(Path("/proc/self/fd")) <= descriptors)
        assert self.run(executor, spec)[0].code == 3
        (harness.effects() / "go").write_text("\n")
        assert ended(executor, running.key).code == 4

    def test_a_launch_with_too_many_descriptors_in_flight_is_unavailable_and_works_later(
        self, harness: ProcessHarness, executor: ProcessExecutor
    ) -> None:
        running = harness.spec("read word < $EFFECTS/go; exit 4")
        os.mkfifo(harness.effects() / "go")
        executor.submit(running)
        ours, theirs = socket.socketpair()
        specs: list[LaunchSpec] = []

        def launch() -> None:
            # Other processes of this user may receive theirs after the last one that fits: then a launch has room.
            while len(specs) < 20:
                with contextlib.suppress(OSError):
                    while True:
                        socket.send_fds(ours, [b"x"], [0, 1, 2])
                specs.append(harness.spec("exit 3"))
                executor.submit(specs[-1])

        with ours, theirs:
            # All that is on its way counts, for each user and not for each process.
            with (
                room_for(100, of=os.getpid()),
                pytest.raises((Unavailable, OSError), match="Too many references") as error,
            ):
                without_privileges(launch)
            assert error.type is Unavailable
        assert self.run(executor, specs[-1])[0].code == 3
        (harness.effects() / "go").write_text("\n")
        assert ended(executor, running.key).code == 4

    @pytest.mark.parametrize("room", range(4))
    def test_a_warden_without_free_descriptors_loses_only_new_jobs(
        self, harness: ProcessHarness, executor: ProcessExecutor, room: int
    ) -> None:
        os.mkfifo(harness.effects() / "go")
        running = harness.spec("read word < $EFFECTS/go; exit 4")
        executor.submit(running)
        assert executor._warden.process is not None
        warden = executor._warden.process.pid
        eventually(lambda: is_waiting(warden))
        with room_for(room, of=warden):
            for spec in [harness.spec("true") for _ in range(3)]:
                # A new keeper inherits the limit.
                with contextlib.suppress(Unavailable):
                    executor.submit(spec)
                    status = ended(executor, spec.key)
                    assert status.succeeded or "no room" in status.message
        eventually(lambda: is_waiting(warden))
        with executor._lock:
            executor._pump.end_idle()
        assert self.run(executor, harness.spec("exit 3"))[0].code == 3
        (harness.effects() / "go").write_text("\n")
        assert ended(executor, running.key).code == 4

    def test_a_job_ends_though_another_process_holds_its_pipe_open(
        self, harness: ProcessHarness, executor: Executor
    ) -> None:
        # The test itself keeps the job's output open, as a service would that was handed the descriptor.
        spec = harness.spec("echo $$ > $EFFECTS/pid; while [ ! -e $EFFECTS/go ]; do sleep 0.02; done; echo last")
        handle = executor.submit(spec)
        wait_until(executor, lambda: (harness.effects() / "pid").exists() and (harness.effects() / "pid").read_text())
        pid = (harness.effects() / "pid").read_text().strip()
        with Path(f"/proc/{pid}/fd/1").open("wb"):
            (harness.effects() / "go").touch()
            assert ended(executor, spec.key).code == 0
            assert text(output(executor, handle)) == b"last\n"

    def test_a_job_ends_though_another_process_goes_on_writing_to_its_pipe(
        self, harness: ProcessHarness, executor: Executor
    ) -> None:
        spec = harness.spec("echo $$ > $EFFECTS/pid; while [ ! -e $EFFECTS/go ]; do sleep 0.02; done; echo last")
        handle = executor.submit(spec)
        wait_until(executor, lambda: (harness.effects() / "pid").exists() and (harness.effects() / "pid").read_text())
        pid = (harness.effects() / "pid").read_text().strip()
        enough = threading.Event()
        with Path(f"/proc/{pid}/fd/1").open("wb", buffering=0) as held:

            def write() -> None:
                with suppress(BrokenPipeError):
                    while not enough.wait(0.01):
                        held.write(b"other\n")

            writer = threading.Thread(target=write)
            writer.start()
            try:
                (harness.effects() / "go").touch()
                assert ended(executor, spec.key).code == 0
                assert b"last\n" in text(output(executor, handle))
            finally:
                enough.set()
                writer.join()
