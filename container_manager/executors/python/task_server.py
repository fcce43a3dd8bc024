"""The task server: a warden that has imported the project, so that its keepers start a task by a fork.

It has one thread and no connection to a database: what another thread holds at a fork, such as a lock, is held in the
new process for ever, and a connection that two processes use is broken for both.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import django
from django.db import connections
from django.utils.module_loading import autodiscover_modules, import_string

from ...jobs.package_log import package_logger
from ..process.warden.command_start import JobStart, resolved_limits, set_limits
from ..process.warden.dispatch import main as serve
from ..process.warden.keeper import END
from ..process.warden.messages import close_all, receive, send
from ..process.warden.processes import MEANT_FOR_THE_WORKER, blocked, set_name
from .task_server_link import HANGUP, SERVER_FAILED, SERVER_READY

# By its name: executors import no models, and what it imports does.
_RUN_TASK = "container_manager.tasks.task_run.run_task"
logger = package_logger(__name__)


def main(*, channel: int, news: int, preload: Sequence[str]) -> None:
    """Import the project, then serve the worker at the other end of the channel; ``news``: where to tell it of that."""
    os.set_inheritable(channel, False)
    os.set_inheritable(news, False)
    try:
        _import_project(preload)
    except BaseException as error:
        traceback.print_exc()
        _tell(news, f"{SERVER_FAILED} {json.dumps(f'{type(error).__name__}: {error}'[:2000])}")
        sys.exit(1)
    _tell(news, SERVER_READY)
    serve(
        socket.socket(fileno=channel),
        job_start=TaskStart(),
        name="cm-task-server",
        private=[news],
        on_hangup=lambda: _tell(news, HANGUP),
    )


def _tell(news: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(news, f"{line}\n".encode())


def _import_project(preload: Sequence[str]) -> None:
    django.setup()
    autodiscover_modules("tasks")
    for name in preload:
        import_module(name)
    import_string(_RUN_TASK)
    for connection in connections.all(initialized_only=True):
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()
    _warn_of_threads()
    # What is still in these buffers, each task would print.
    sys.stdout.flush()
    sys.stderr.flush()


def _warn_of_threads() -> None:
    """Warn of what the import has started: no thread goes on in a task's process, and what it holds stays held."""
    named = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    native = len(os.listdir("/proc/self/task")) - 1 - len(named)  # noqa: PTH208  # only how many
    if named or native:
        said = ", ".join([*named, *([f"{native} not of Python's"] if native else [])])
        logger.warning(
            "The import of the project has started threads: %s. They do not run in tasks, and a lock that one of them "
            "holds when a task is forked stays locked there. Start them in the tasks that need them.",
            said,
        )
    # Said once, and by name.
    warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)


class TaskStart(JobStart):
    """Starts each task in a process that was forked ahead, so that a start is a message and no fork.

    It runs that one task. It has no random state, connection or thread from before its fork but what every fork of the
    task server has, takes environment, folder, limits and output from the launch, and reads the clock only then: how
    long it has waited changes nothing. It ends with its keeper, whose end of the socket nothing else holds, and so does
    not outlast the code that it has read.
    """

    def __init__(self) -> None:
        # The pid of the process that waits, and what it waits at.
        self._waiting: tuple[int, socket.socket] | None = None

    def prepare(self, private: Sequence[int]) -> None:
        # Without room it is forked for its launch, whose start fails if there is still none.
        with contextlib.suppress(OSError):
            self._fork(private)

    def start(self, message: bytes, streams: Sequence[int], private: Sequence[int]) -> int:
        # A launch that is malformed is the worker's fault, and not to be an end of the task.
        _parsed(message)
        while True:
            pid, launches = self._fork(private)
            self._waiting = None
            with launches:
                # One that was killed while it waited has run nothing: another takes its place.
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    try:
                        send(launches, message, streams)
                    except (BrokenPipeError, ConnectionResetError):
                        os.waitpid(pid, 0)
                    else:
                        return pid

    def _fork(self, private: Sequence[int]) -> tuple[int, socket.socket]:
        """Return the process that waits, forked just now if none did. Raises OSError."""
        if self._waiting is None:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    # A signal that comes before the new process has its own handlers must not go to its parent's.
                    with blocked(signal.valid_signals()):
                        pid = os.fork()
                        if pid == 0:
                            _be_task(theirs, [*private, ours.detach()])
                except OSError:
                    ours.close()
                    raise
            self._waiting = pid, ours
        return self._waiting


def _parsed(message: bytes) -> tuple[Mapping[str, Any], list[tuple[int, tuple[int, int]]]]:
    """Return what a launch says, and its limits. Raises ValueError."""
    try:
        launch = json.loads(message)
        return launch, list(resolved_limits(launch["limits"]))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("The launch is malformed.") from error


def _be_task(launches: socket.socket, private: Sequence[int]) -> NoReturn:
    status = 1
    try:
        _leave_keeper(private)
        set_name("cm-task-next")
        # Here and not when there is a task: each writes to memory that this process shares with its parent, which the
        # kernel must copy first.
        os.environ.clear()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # It was opened for another file.
            sys.stdout.reconfigure(line_buffering=True)
        run_task = import_string(_RUN_TASK)
        with launches:
            message, streams = receive(launches)
        if message is not None:
            set_name("cm-task")
            _redirect_output(streams)
            status = _run(*_parsed(message), run_task)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        # No cleanup of what was inherited: it is the task server's.
        os._exit(status)


def _run(
    launch: Mapping[str, Any],
    limits: Sequence[tuple[int, tuple[int, int]]],
    run_task: Callable[[str, Mapping[str, Any]], int],
) -> int:
    os.environ.update(launch["environment"])
    if directory := launch["working_directory"]:
        os.chdir(directory)
    set_limits(limits)
    module = launch["task"].rpartition(".")[0]
    is_imported = module in sys.modules
    status = run_task(launch["task"], launch["arguments"] or {})
    if not is_imported and module in sys.modules:
        logger.warning(
            "The module %s was imported for this task alone, and is so for each: name it in the executor's option "
            "'preload', or declare its tasks in the module 'tasks' of an installed app.",
            module,
        )
    return status


def _leave_keeper(private: Sequence[int]) -> None:
    """Leave what is the keeper's: its session, signal handlers and descriptors."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, END, *MEANT_FOR_THE_WORKER):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    close_all(private)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _redirect_output(streams: Sequence[int]) -> None:
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    close_all([descriptor for descriptor in streams if descriptor > 2])
