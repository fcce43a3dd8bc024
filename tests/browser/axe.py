"""axe-core, which looks for what keeps people out: found on this machine, or fetched by npm."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ..prerequisites import require

_PACKAGE, _VERSION = "axe-core", "4.14.1"
_CACHE = Path.home() / ".cache" / "container-manager-tests" / f"{_PACKAGE}-{_VERSION}.js"


def axe_source() -> str:
    """Return the script's text."""
    if not _CACHE.exists():
        require("npm, which fetches axe-core", shutil.which("npm"))
        _CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = ["npm", "pack", "--silent", f"{_PACKAGE}@{_VERSION}"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                script = archive.extractfile("package/axe.min.js")
                assert script is not None
                # Of another name first, so that no other process finds half of it.
                part = _CACHE.with_suffix(f".{Path(folder).name}")
                part.write_bytes(script.read())
                part.rename(_CACHE)
    return _CACHE.read_text("utf-8")
