"""Secrets as files: a folder on a tmpfs for each attempt that has any, closed to other users of the host."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .base import DependencyUnavailable

_IN_MEMORY = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mounts")


class SecretFiles:
    """The folders of one executor. Any thread may call it.

    ``survive``: whether they may outlive this process, as containers do. Otherwise they are in a folder that this
    process holds a lock of: the next one removes what a killed process has left.
    """

    def __init__(self, directory: str | Path, *, survive: bool) -> None:
        self._directory, self._survive = Path(directory), survive
        self._folder: Path | None = None
        self._lock: int | None = None

    def place(self, key: str, files: Mapping[str, bytes]) -> Path:
        """Write an attempt's files, unless that was done before; return their folder.

        Raises DependencyUnavailable where this host cannot hold them: another one may.
        """
        try:
            folder = self._own_folder()
            if not (placed := folder / key).exists():
                # Renamed once it is complete.
                new = folder / f".{key}-{secrets.token_hex(4)}"
                new.mkdir()
                for name, content in files.items():
                    _write(new / name, content)
                # The job's user is any user of its container; nobody else passes our own folder.
                new.chmod(0o755)
                with suppress(OSError):
                    new.rename(placed)
                shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            message = f"The job's secrets cannot be put into {self._directory} (SECRET_FILES_DIRECTORY): {error}."
            raise DependencyUnavailable(message) from error
        return placed

    def remove(self, key: str) -> None:
        """Remove an attempt's files, if it has any."""
        folder = self._folder or (self._user_folder() / "containers" if self._survive else None)
        if folder is not None:
            shutil.rmtree(folder / key, ignore_errors=True)

    def close(self) -> None:
        """Remove what does not survive this process."""
        if self._lock is not None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = self._lock = None

    def _user_folder(self) -> Path:
        return self._directory / f"container-manager-{os.geteuid()}"

    def _own_folder(self) -> Path:
        if self._folder is None or not self._folder.exists():
            if not is_in_memory(self._directory):
                raise DependencyUnavailable(
                    f"{self._directory} is no tmpfs, so no secrets are put there: set SECRET_FILES_DIRECTORY to one."
                )
            require_private(user := self._user_folder())
            if self._survive:
                self._folder = user / "containers"
                self._folder.mkdir(mode=0o700, exist_ok=True)
            else:
                self._folder, self._lock = locked_folder(user)
        return self._folder


def is_in_memory(path: Path) -> bool:
    """Tell whether what is written below a path stays in memory (Linux)."""
    found, best = "", -1
    real = Path(os.path.realpath(path))
    for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mounted, kind, *_ = line.split(" ")
        mounted = mounted.replace(r"\040", " ")
        # The last of several at one place covers the others.
        if real.is_relative_to(mounted) and len(mounted) >= best:
            found, best = kind, len(mounted)
    return found in _IN_MEMORY


def require_private(folder: Path) -> None:
    """Make a folder of this user alone. Raises OSError where another user has made one of this name."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder that only this user can enter")


def locked_folder(user: Path) -> tuple[Path, int]:
    """Return a new folder and a descriptor that holds its lock; remove those whose processes are gone."""
    # Not everywhere: a web server elsewhere can import executors.
    import fcntl

    for left in user.glob("processes-*"):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
    name = secrets.token_hex(8)
    (new := user / f".{name}").mkdir(mode=0o700)
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Under this name others see it only with its lock.
    return new.rename(user / f"processes-{name}"), descriptor


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    path.chmod(0o444)
