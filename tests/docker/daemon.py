"""A Docker daemon for the tests, in a folder of its own, removed without a trace."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..ports import free_port
from . import daemon_leftovers
from .certificates import Certificates

_START_SECONDS = 180
# The daemon gives each container 10 s to end, and itself 15 s.
_STOP_SECONDS = 60


def program() -> str | None:
    """Return where dockerd is, or None."""
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def obstacle() -> str:
    """Say why no daemon can be started here; empty if one can."""
    if program() is None:
        return "dockerd is not installed"
    return "" if os.getuid() == 0 else "dockerd needs root"


class Daemon:
    """A dockerd, with its own containerd. Not started until `start`; `close` (or the context's end) leaves nothing.

    Its containers have no network but their own loopback. With ``tls``, a folder that gets the certificates, it also
    listens on a port of the loopback, for clients with a certificate only.
    """

    def __init__(self, *, live_restore: bool = False, tls: Path | None = None, options: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cm-docker-"))
        self.socket_path = self.folder / "docker.sock"
        self.url = f"unix://{self.socket_path}"
        self.log = self.folder / "log"
        self.tls_url = ""
        self.certificates: Certificates | None = None
        # All containers are in this control group: it finds their processes when no daemon knows of them any more.
        self._cgroup = self.folder.name
        self._exec_root = self.folder / "exec"
        self._process: subprocess.Popen[bytes] | None = None
        self._options = [*self._common(), *options]
        if live_restore:
            self._options.append("--live-restore")
        if tls is not None:
            self.certificates = Certificates.make(tls)
            self.tls_url = f"tcp://127.0.0.1:{free_port()}"
            self._options += ["--host", self.tls_url, "--tlsverify", *self.certificates.server_options()]

    def _common(self) -> list[str]:
        configuration = self.folder / "daemon.json"
        configuration.write_text("{}")
        return [
            f"--config-file={configuration}",
            f"--data-root={self.folder / 'data'}",
            f"--exec-root={self._exec_root}",
            f"--pidfile={self.folder / 'pid'}",
            f"--host={self.url}",
            f"--cgroup-parent=/{self._cgroup}",
            # The systemd driver would have systemd name the groups.
            "--exec-opt=native.cgroupdriver=cgroupfs",
            # Nothing of the machine's network is touched.
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        ]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The pid of dockerd, or None where it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start dockerd, and return when its API answers."""
        assert self.pid is None
        dockerd = program()
        assert dockerd is not None, "dockerd is not installed"
        notify_path = self.folder / "notify"
        notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            notify.bind(str(notify_path))
            # A session of its own: Ctrl-C is for the tests, which still need the daemon to end well.
            self._process = subprocess.Popen(
                [dockerd, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "NOTIFY_SOCKET": str(notify_path)},
                start_new_session=True,
            )
            self._await_ready(notify, self._process)
        assert self.answers(), self.last_words()

    def _await_ready(self, notify: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Wait for what dockerd tells a service manager; its end before that is an error."""
        deadline = time.monotonic() + _START_SECONDS
        end = os.pidfd_open(process.pid)
        try:
            while (seconds := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select([notify.fileno(), end], [], [], seconds)
                if notify.fileno() in ready:
                    if b"READY=1" in notify.recv(4096):
                        return
                elif ready:
                    raise RuntimeError(f"dockerd ended with {process.wait()}:\n{self.last_words()}")
        finally:
            os.close(end)
        raise RuntimeError(f"dockerd was not ready within {_START_SECONDS} s:\n{self.last_words()}")

    def answers(self) -> bool:
        """Tell whether the API answers a ping."""
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(_START_SECONDS)
            connection.connect(str(self.socket_path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(4096)
        return False

    def last_words(self) -> str:
        """Return the end of dockerd's log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def stop(self) -> None:
        """End dockerd as a service manager does: it stops its containers first, unless it has live restore."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def kill(self) -> None:
        """End dockerd as a crash would. Its containers and their shims go on, and containerd dies with it."""
        if self._process is None or self._process.poll() is not None:
            return
        pid_file = self._exec_root / "containerd" / "containerd.pid"
        with suppress(OSError, ValueError):
            containerd = os.pidfd_open(int(pid_file.read_text()))
            self._process.kill()
            try:
                # The kernel kills it when its parent is gone; a new dockerd must not meet the old containerd.
                daemon_leftovers.await_end(containerd, _STOP_SECONDS)
            finally:
                os.close(containerd)
            # Until this machine's init has reaped it, its pid would look to a new dockerd like one that still runs.
            pid_file.unlink()
        self._process.kill()
        self._process.wait()

    def crash_machine(self) -> None:
        """End dockerd and all that belongs to it at once, as when its machine loses its power."""
        self.kill()
        self._end_rest()
        # On a machine it is in memory.
        shutil.rmtree(self._exec_root)

    def forget_ends(self) -> None:
        """Take away what containerd has kept of containers, while nothing runs.

        So it is where dockerd has asked for it while it started, and crashed before it stored the answer.
        """
        assert self.pid is None
        for folder in (self._exec_root, self.folder / "data"):
            shutil.rmtree(folder / "containerd")

    def processes(self) -> set[int]:
        """Return the pids of all that belongs to this daemon: itself, containerd, shims, and containers' processes."""
        own = set() if self.pid is None else {self.pid}
        return own | set(daemon_leftovers.helpers(self._exec_root)) | self.container_processes()

    def container_processes(self) -> set[int]:
        """Return the pids of containers' processes."""
        return daemon_leftovers.members(self._cgroup)

    def close(self) -> None:
        """End everything, and leave nothing. Containers get no time to end themselves."""
        # An orderly end would take dockerd a second, for nothing that anyone will read again.
        self.kill()
        self._end_rest()
        for path in daemon_leftovers.shim_sockets(self._exec_root):
            path.unlink(missing_ok=True)
        daemon_leftovers.remove_cgroups(self._cgroup)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _end_rest(self) -> None:
        """End what dockerd leaves behind when it is killed."""
        while daemon_leftovers.end(daemon_leftovers.helpers(self._exec_root)):
            pass
        daemon_leftovers.end_members(self._cgroup)
        daemon_leftovers.unmount(self.folder)
