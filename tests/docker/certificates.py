"""Certificates for a daemon that listens on the loopback, made with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """An authority, and what it has signed: ``cert`` and ``key`` are the client's."""

    ca: Path
    cert: Path
    key: Path
    server_cert: Path
    server_key: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make an authority and a pair for each side, in a folder."""
        ca, ca_key = folder / "ca.pem", folder / "ca-key.pem"
        _openssl("req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=cm-test-authority", "-keyout", ca_key, "-out", ca)
        # The names by which docker's own tools look for the client's files in DOCKER_CERT_PATH.
        paths = {"server": ("server-cert.pem", "server-key.pem"), "client": ("cert.pem", "key.pem")}
        for side, names in paths.items():
            request, extensions = folder / f"{side}.csr", folder / f"{side}.ext"
            cert, key = (folder / name for name in names)
            extensions.write_text(f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={side}Auth\n")
            _openssl("req", *_KEY, "-subj", f"/CN=cm-test-{side}", "-keyout", key, "-out", request)
            authority: list[str | Path] = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
            signed: list[str | Path] = ["-extfile", extensions, "-out", cert]
            _openssl("x509", "-req", "-in", request, "-days", "2", *authority, *signed)
        server_cert, server_key = (folder / name for name in paths["server"])
        cert, key = (folder / name for name in paths["client"])
        return cls(ca=ca, cert=cert, key=key, server_cert=server_cert, server_key=server_key)

    def server_options(self) -> list[str]:
        """Return what dockerd must be told."""
        return [f"--tlscacert={self.ca}", f"--tlscert={self.server_cert}", f"--tlskey={self.server_key}"]
