"""``make serve``: the dashboard, with a worker and jobs that come while one watches, until SIGINT, SIGTERM or SIGHUP.

It ends with its parent too, and what it has started ends with it, however that is.
"""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

PORT = os.environ.get("PORT", "8000")
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 5


def main() -> int:
    os.environ.update(DJANGO_SETTINGS_MODULE="example.settings", EXAMPLE_FED="1")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(0 if number == signal.SIGINT else 128 + number))
    _die_with_parent(signal.SIGTERM)
    password = _prepare()
    print(f"http://127.0.0.1:{PORT}/  user: admin  password: {password}", flush=True)
    children: list[subprocess.Popen[bytes]] = []
    server = ["django", "runserver", "--noreload", f"127.0.0.1:{PORT}"]
    try:
        for words in (["django", "container", "worker", "--slots", "6"], ["example.feed"], server):
            command = [sys.executable, "-m", *words]
            # This process has one thread, which is all that preexec_fn asks for.
            children.append(subprocess.Popen(command, preexec_fn=_die_with_parent))  # noqa: PLW1509
        return children[-1].wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _stop(children)


def _prepare() -> str:
    """Create the tables and a superuser; return the superuser's password."""
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    password = os.environ.get("EXAMPLE_PASSWORD") or secrets.token_urlsafe(12)
    user, _created = get_user_model().objects.get_or_create(
        username="admin", defaults={"is_staff": True, "is_superuser": True}
    )
    user.set_password(password)
    user.save()
    return password


def _die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let Linux send this process a signal when its parent dies: a parent that is killed cannot stop it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the children: a worker's first SIGTERM lets its jobs finish, the second ends it now."""
    for _ in range(2):
        for child in children:
            child.terminate()
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_STOP_SECONDS)
    for child in children:
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main())
