"""Kubernetes' own programs, built from their Go module and kept in a cache.

No package of Debian has them. A cold build takes about 20 minutes of CPU time; what is built is kept by
version outside the clone, and only what is missing is built.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "1.37.2"
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
_MODULE = "k8s.io/kubernetes"


def folder() -> Path:
    """Return where the programs of `VERSION` are kept; `CM_TEST_KUBERNETES_CACHE` names another cache."""
    cache = os.environ.get("CM_TEST_KUBERNETES_CACHE")
    root = Path(cache) if cache else Path.home() / ".cache" / "container-manager-tests" / "kubernetes"
    return root / VERSION


def missing() -> list[str]:
    """Return the names of the programs that are not built yet."""
    return [name for name in NAMES if not (folder() / name).exists()]


def build() -> None:
    """Build what is missing, one run at a time; say in a line what is done.

    Raise `subprocess.CalledProcessError` when Go cannot build it.
    """
    if not missing():
        return
    folder().mkdir(parents=True, exist_ok=True)
    with _one_at_a_time():
        names = missing()
        if not names:
            return
        _say(f"Kubernetes {VERSION}: building {', '.join(names)} into {folder()} (minutes)")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cm-kubernetes-build-") as scratch:
            module = Path(scratch)
            _write_module(module)
            for name in names:
                _build_program(name, module)
        _say(f"Kubernetes {VERSION}: built in {time.monotonic() - started:.0f} s")


def _write_module(module: Path) -> None:
    """Write a module of its own that has the programs as tools, with the staging modules of their version."""
    (module / "go.mod").write_text("module tests/kubernetes\n\ngo 1.26\n")
    (module / "go.sum").touch()
    downloaded = json.loads(_go(module, "mod", "download", "-json", f"{_MODULE}@v{VERSION}"))
    edits = [f"-require={_MODULE}@v{VERSION}"]
    staging = json.loads(_go(module, "mod", "edit", "-json", downloaded["GoMod"]))["Replace"]
    for replaced in staging:
        name = replaced["Old"]["Path"]
        edits.append(f"-replace={name}={name}@v0.{VERSION.partition('.')[2]}")
    _go(module, "mod", "edit", *edits)
    _go(module, "get", "-tool", *[f"{_MODULE}/cmd/{name}@v{VERSION}" for name in NAMES])


def _build_program(name: str, module: Path) -> None:
    """Build one program; it is in its place only when it is whole."""
    major, minor, _patch = VERSION.split(".")
    version = "k8s.io/component-base/version."
    # Without them clients are told v0.0.0.
    flags = f"-s -w -X {version}gitVersion=v{VERSION} -X {version}gitMajor={major} -X {version}gitMinor={minor}"
    built = module / name
    # Two at a time: on a small machine, other suites run beside it.
    _go(module, "build", "-p", "2", "-trimpath", "-ldflags", flags, "-o", str(built), f"{_MODULE}/cmd/{name}")
    partial = folder() / f"{name}.partial"
    shutil.copy2(built, partial)
    partial.replace(folder() / name)


def _go(module: Path, *arguments: str) -> str:
    """Run Go in the module's folder; return what it writes."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    command = ["go", *arguments]
    done = subprocess.run(command, check=True, cwd=module, env=environment, stdout=subprocess.PIPE, text=True)
    return done.stdout


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for another run that builds the same."""
    with (folder() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"Kubernetes {VERSION}: waiting for another run that builds it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
