"""Random jobs, drawn from the one list of a job's fields: whoever adds a field there finds it here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from container_manager.jobs.container_request import REQUEST_RULES
from container_manager.jobs.spec import JobSpec

from .image import IMAGE

_MEBIBYTE = 1 << 20
# Where a job is run and when, not what it is.
_FIXED = ("executor", "queue")
_TEXTS = (
    "",
    "x",
    "a b",
    "Ünï ☃",
    "-x",
    "--",
    "$(id)",
    "`id`",
    "a'b\"c",
    "%s{}",
    "x" * 300,
    "../..",
    "a\tb",
    "\x1b[31m",
)
_COUNTS = (1, 2, 7, 4096, 65536, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**70, 0, -1)
_NUMBERS = (0.001, 0.01, 0.5, 1, 2.0, 1e9, 1e300, 0.0, -1.0, float("inf"), float("nan"))
_PATHS = ("/scratch", "/a b", "/root", "/", "/proc", "/etc", "/x/y/z", "/ü", "/" + "x" * 300, "/..", "relative")
_NAMES = ("effects", "nofile", "core", "nproc", "none", "host", "no-such", "1000", "0:0", "user", "a.b", "A", "-")
# Values that a type's own do not reach.
_VALUES: Mapping[str, Sequence[Any]] = {
    "image": (
        IMAGE,
        "cm-test",
        f"docker.io/library/{IMAGE}",
        "",
        "other:1",
        "CM-TEST",
        "cm-test:missing",
        "../x",
        ":",
        "@",
    ),
    "working_directory": (*_PATHS, "/etc/passwd", "/no/such/folder", "/a\0b"),
    "memory_bytes": (4096, 4 * _MEBIBYTE, 6 * _MEBIBYTE, 64 * _MEBIBYTE, *_COUNTS),
    "environment": (
        {"A": "x"},
        {"PATH": "/nowhere"},
        {"LD_PRELOAD": "/no/such.so"},
        {"A=B": "x"},
        {"": "x"},
        {"A": "a\0b"},
        {"CONTAINER_MANAGER_JOB": "other"},
        {"BIG": "x" * 200_000},
    ),
    "secrets": (
        {"S": "env:CM_SECRET_MISSING"},
        {"S": "file:missing"},
        {"S": "file:../../etc/passwd"},
        {"S": "env:PATH"},
    ),
    "max_retries": (0, 1, 2),
}
_TYPES = get_type_hints(JobSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a command does: how it ends, where nothing else about the job is odd."""

    words: tuple[str, ...]
    status: str = "failed"
    reason: str = ""
    exit_code: int | None = None
    fields: tuple[tuple[str, Any], ...] = ()


def _shell(script: str, **more: Any) -> Case:
    return Case(words=("sh", "-c", script), **more)


_WELL: dict[str, Any] = {"status": "completed", "exit_code": 0}
_OVERDUE: dict[str, Any] = {"reason": "timeout", "fields": (("timeout_seconds", 2),)}
CASES: Mapping[str, Case] = {
    "well": Case(words=("true",), **_WELL),
    "words": Case(words=("echo", "a b", "ü", "$HOME", "", "'"), **_WELL),
    "output": _shell("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2", **_WELL),
    "lines": _shell("i=0; while [ $i -lt 300 ]; do echo $i; echo $i >&2; i=$((i+1)); done", **_WELL),
    "orphan": _shell("sleep 600 & sleep 600 & exit 0", **_WELL),
    "session": _shell("setsid sleep 600 & exit 0", **_WELL),
    "files": _shell("head -c 1000000 /dev/zero > /root/x || true; mkdir -p /a/b || true", **_WELL),
    "fails": _shell("exit 7", reason="error", exit_code=7),
    "fails oddly": _shell("exit 255", reason="error", exit_code=255),
    "terminated": _shell("kill -TERM $$", reason="signal", exit_code=143),
    "killed": _shell("kill -KILL $$", reason="signal", exit_code=137),
    "missing": Case(words=("/no/such/program",), reason="start", exit_code=127),
    "no program": Case(words=("/etc/passwd",), reason="start", exit_code=126),
    "overdue": _shell("exec sleep 600", **_OVERDUE),
    "deaf": _shell("trap '' TERM; while :; do sleep 0.1; done", **_OVERDUE),
    "floods": _shell("exec yes", **_OVERDUE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSpec:
    """A job to run: ``fields`` for `enqueue`, which may refuse it. ``odd`` names those that are not a case's own."""

    case: Case
    fields: Mapping[str, Any]
    odd: frozenset[str]


def random_spec(random: Random) -> RandomSpec:
    """Draw a job: a command whose end is known, and now and then something odd in any other field."""
    case = CASES[random.choice(list(CASES))]
    own = {"command": shlex.join(case.words), "image": IMAGE, "max_retries": 0, **dict(case.fields)}
    free = [
        name for name in JobSpec._fields if name not in _FIXED and name not in dict(case.fields) and name != "command"
    ]
    # A third are plain: their end is known exactly.
    odd = frozenset(random.sample(free, random.choice((0, 1, 1, 2, 3, 5))))
    given = {name: _value(random, name) for name in JobSpec._fields if name in odd}
    return RandomSpec(case=case, fields={**own, **given}, odd=odd)


def _value(random: Random, name: str) -> Any:
    if name == "container":
        keys = random.sample(list(REQUEST_RULES), random.choice((1, 1, 2, 3)))
        return {key: _request(random, key) for key in keys}
    if name in _VALUES:
        return random.choice(_VALUES[name])
    return _of_type(random, _TYPES[name])


def _request(random: Random, key: str) -> Any:
    """Return a value for one entry of a job's request, mostly one that its rule allows."""
    pool: list[Any] = [*_TEXTS, *_NAMES, *_COUNTS, True, False, None, [*_NAMES[:2]]]
    for keys in (_PATHS, _NAMES):
        pool += [{random.choice(keys): value} for values in (_COUNTS, _PATHS, _NAMES) for value in values]
    right = [value for value in pool if REQUEST_RULES[key].is_right(value)]
    return random.choice(right if right and random.random() < 0.8 else pool)


def _of_type(random: Random, kind: Any) -> Any:
    """Return a value of a field's type. A type that is not known here needs a line."""
    if get_origin(kind) in (Union, UnionType):
        return _of_type(random, random.choice(get_args(kind)))
    if get_origin(kind) in (list, tuple, Sequence):
        return [_of_type(random, get_args(kind)[0]) for _ in range(random.randrange(4))]
    if get_origin(kind) is Mapping:
        key, value = (str if each is Any else each for each in get_args(kind))
        return {_of_type(random, key): _of_type(random, value) for _ in range(random.randrange(4))}
    return random.choice(_POOLS[kind])


_POOLS: Mapping[Any, Sequence[Any]] = {
    str: _TEXTS,
    int: _COUNTS,
    float: _NUMBERS,
    bool: (True, False),
    NoneType: (None,),
}


def described(spec: RandomSpec) -> str:
    """Return a job in one short line."""
    shown: Callable[[Any], str] = lambda value: json.dumps(value, default=str)[:200]  # noqa: E731
    return ", ".join(f"{name}={shown(value)}" for name, value in spec.fields.items())
