"""The files into which local jobs write results and progress: in a folder that only the worker's user can enter."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...jobs.progress_lines import PROGRESS_BYTES, whole_lines
from ..base import DependencyUnavailable
from ..secret_files import locked_folder, require_private

_READ_BYTES = 65536
# Whatever the job has put there: no link is followed, and nothing is waited for.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class ResultFile(NamedTuple):
    """Where a job may write its result, and how much of it is read; its progress goes into a file beside it.

    A job that writes none costs no file.
    """

    path: str
    most_bytes: int

    @property
    def progress_path(self) -> str:
        return f"{self.path}-progress"

    def progress(self) -> bytes | None:
        """Return the last whole lines of the job's progress; None: it has written none, or none that can be read."""
        try:
            descriptor = os.open(self.progress_path, _FLAGS)
        except OSError:
            return None
        try:
            found = os.fstat(descriptor)
            start = max(0, found.st_size - PROGRESS_BYTES)
            if not stat.S_ISREG(found.st_mode):
                return None
            return whole_lines(os.pread(descriptor, PROGRESS_BYTES, start), is_cut=start > 0)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def take_progress(self) -> bytes | None:
        """Do `progress`, once the job has ended; the file is gone then."""
        data = self.progress()
        if data is not None:
            _remove(self.progress_path)
        return data

    def take(self) -> tuple[bytes | None, str]:
        """Return what the job has written, None if nothing, or why it is not read; the file is gone then.

        No more is read than allowed.
        """
        try:
            descriptor = os.open(self.path, _FLAGS)
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            _remove(self.path)
            return None, "It is a symbolic link." if error.errno == errno.ELOOP else f"{error.strerror}."
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None, "It is no regular file."
            data = b""
            while len(data) <= self.most_bytes and (piece := os.read(descriptor, _READ_BYTES)):
                data += piece
        except OSError as error:
            return None, f"{error.strerror}."
        finally:
            os.close(descriptor)
            _remove(self.path)
        return (data, "") if len(data) <= self.most_bytes else (None, f"It has more than {self.most_bytes} bytes.")


class ResultFiles:
    """The result files of one executor. What a killed worker has left is removed by the next one."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._folder: Path | None = None
        self._lock: int | None = None

    def of(self, key: str) -> ResultFile:
        """Return where an attempt may write its result. Raises DependencyUnavailable where there is no room for it."""
        try:
            if self._folder is None:
                base = Path(tempfile.gettempdir())
                require_private(user := base / f"container-manager-{os.geteuid()}")
                self._folder, self._lock = locked_folder(user)
        except OSError as error:
            raise DependencyUnavailable(f"There is no folder for the results of jobs: {error}.") from error
        return ResultFile(f"{self._folder}/{key}", self._most_bytes)

    def close(self) -> None:
        """Remove all of them."""
        if self._lock is not None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = self._lock = None


def _remove(path: str) -> None:
    # A folder stays until the executor is closed: to remove all that may be in it takes any time.
    with suppress(OSError):
        Path(path).unlink()
