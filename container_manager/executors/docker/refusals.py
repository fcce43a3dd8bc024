"""Tell from an error of the daemon whether it is final: whether a retry would fail in the same way.

It has few codes, and answers 500 to nearly all that others have told it: registries, the kernel, the container runtime.
So what they said is read from its text, by its form. All that is not known to be final is not: it may work later.
"""

from __future__ import annotations

import errno
import os
import re

# Of the daemon's own answers: the request itself is wrong, or is not allowed.
_FINAL_STATUSES = (400, 403, 413)
_MISSING = 404
# Of a registry's answers.
_FINAL_HTTP = ("401", "403", "404")
# A registry's error as the daemon quotes it: its code in lower case, as a part of its own in "…: code: message".
_CODE = re.compile(
    r"(?:^|: )(?P<code>unauthorized|denied|manifest unknown|name unknown|name invalid|not found|toomanyrequests"
    r"|unsupported|unavailable|unknown)(?:: |$)"
)
_FINAL_CODES = ("unauthorized", "denied", "manifest unknown", "name unknown", "name invalid", "not found")
# One without a code.
_HTTP = re.compile(
    r"error parsing HTTP (?P<a>\d{3}) response body|unexpected HTTP status: (?P<b>\d{3})"
    r"|unexpected status(?: code)?\b.*?: (?P<c>\d{3})\b"
)
# The daemon's own words.
_FINAL_PULLS = (
    "no basic auth credentials",
    "invalid reference format",
    "repository does not exist",
)
_WRONG_PLATFORM = (
    "no matching manifest for",
    "cannot be used on this platform",
    "no match for platform",
    "no image found in manifest list",
)

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def _words(*numbers: int) -> tuple[str, ...]:
    """Return what Go programs such as the daemon call these errors: the C library's texts in lower case."""
    return tuple(os.strerror(number).lower() for number in numbers)


# What the host lacks for now. It comes first: a text may also say what was being done, such as a mount.
_HOST_LACKS = (
    *_words(errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EBUSY, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE),
    *_words(errno.ETXTBSY, errno.EINTR, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE),
    "deadline exceeded",
    "context canceled",
    "timeout",
    "timed out",
    "unexpected eof",
    # The host's own groups cannot be used.
    "apply cgroup",
    "cgroup-parent",
)
# Its init process is the host's, too. (A job's own command is started by that, not by the runtime.)
_INIT = re.compile(r"""["/]docker-init\b|["/](?:tini|catatonit)\b""")
# What is wrong with the job's own command, mounts, limits, user or working directory, where the runtime says so.
_JOB_LACKS = _words(
    *(errno.ENOEXEC, errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EPERM, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.E2BIG, errno.EROFS, errno.ERANGE),
)
_RUNTIME = "OCI runtime"
_RUNTIME_SAYS = (*_JOB_LACKS, "executable file not found", "memory limit too low", "rlimit")
# What the daemon finds out itself and answers 500 to (measured with 20.10).
_DAEMON_SAYS = (
    "unable to find user",
    "unable to find group",
    "uids and gids must be in range",
    "could not select device driver",
    "cannot unmarshal",
    # About the working directory.
    "Cannot mkdir",
    "not a directory",
    "file name too long",
    "invalid argument",
    "too many levels of symbolic links",
)


def is_final_pull(text: str, *, status: int = 0, begun: bool = False) -> bool:
    """Return whether a registry refuses an image for good, or has none for this platform.

    ``status``: of the daemon's answer, 0 for an error in its stream. ``begun``: whether the registry had let this image
    be had, so that only a part of it failed.
    """
    if any(words in text for words in _WRONG_PLATFORM):
        return True
    if begun:
        return False
    if status == _MISSING or status in _FINAL_STATUSES:
        return True
    # What comes first says what happened; the rest may be a registry's own words.
    if found := _HTTP.search(text):
        return next(filter(None, found.groups())) in _FINAL_HTTP
    if found := _CODE.search(text):
        return found["code"] in _FINAL_CODES
    return any(words in text for words in _FINAL_PULLS)


def is_final_launch(text: str, *, status: int) -> bool:
    """Return whether a container that could not be created or started never can: because of what the job asks for.

    ``status``: of the daemon's answer.
    """
    if status == _MISSING:
        return False
    # The job's own words, such as its command, are quoted.
    said = _QUOTED.sub('""', text)
    if any(words in said.lower() for words in _HOST_LACKS) or _INIT.search(text):
        return False
    if status in _FINAL_STATUSES:
        return True
    if _RUNTIME in said and any(words in said for words in _RUNTIME_SAYS):
        return True
    return any(words in said for words in _DAEMON_SAYS)
