"""The control plane of the tests' cluster: etcd, API server, controller manager, scheduler, and who may ask them."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..ports import free_port
from . import programs
from .server_process import ServerProcess

NODES = ("node1", "node2")
# Of these the API server's own Service has the first one, by which pods find it.
SERVICE_ADDRESSES = "10.96.0.0/24"
API_SERVICE = ("10.96.0.1", 443)
# In the order in which they are started.
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
# Of OpenSSL's commands only `ca` makes certificates that are valid since a time that is past.
_AUTHORITY = """\
[ca]
default_ca = tests
[tests]
database = {folder}/authority.index
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
preserve = yes
default_md = sha256
policy = subjects
[subjects]
organizationName = optional
commonName = supplied
"""
# The group that may do everything.
_MASTERS = "system:masters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The cluster's authority and tokens, as files in a folder, and one kubeconfig for each user."""

    folder: Path
    server: str
    tokens: Mapping[str, str] = field(repr=False)

    @classmethod
    def make(cls, folder: Path, server: str) -> Credentials:
        """Make the files for an API server at this address: it reads its tokens at its start only."""
        folder.mkdir()
        users = {
            "admin": ("admin", _MASTERS),
            "controller-manager": ("system:kube-controller-manager", ""),
            "scheduler": ("system:kube-scheduler", ""),
            **{node: (f"system:node:{node}", "system:nodes") for node in NODES},
        }
        tokens = {name: secrets.token_hex(16) for name in users}
        lines = [f'{tokens[name]},{user},{name},"{groups}"' for name, (user, groups) in users.items()]
        (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        _make_certificates(folder)
        credentials = cls(folder=folder, server=server, tokens=tokens)
        for name, token in tokens.items():
            credentials.kubeconfig_path(name).write_text(kubeconfig(server, folder / "ca.pem", token))
        return credentials

    def kubeconfig_path(self, name: str) -> Path:
        """Return where the kubeconfig of a user is: ``admin``, or a part of the cluster."""
        return self.folder / f"{name}.kubeconfig"


def kubeconfig(server: str, authority: Path, token: str, *, namespace: str = "default") -> str:
    """Return the text of a kubeconfig; JSON is YAML."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": str(authority)}}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": namespace}}],
        },
        indent=1,
    )


def _make_certificates(folder: Path) -> None:
    """Make an authority, the API server's certificate, its own towards kubelets, and the key of service accounts."""
    settings = folder / "authority.cnf"
    (folder / "authority.index").touch()
    settings.write_text(_AUTHORITY.format(folder=folder))
    for name, subject, extensions in (
        ("ca", "/CN=cm-test-authority", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"),
        (
            "server",
            "/CN=kube-apiserver",
            f"subjectAltName=IP:127.0.0.1,IP:{API_SERVICE[0]},DNS:localhost\nextendedKeyUsage=serverAuth\n",
        ),
        ("kubelet-client", f"/O={_MASTERS}/CN=kube-apiserver", "extendedKeyUsage=clientAuth\n"),
    ):
        request, options, key = (folder / f"{name}{suffix}" for suffix in (".csr", ".ext", "-key.pem"))
        options.write_text(f"{extensions}subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", *_KEY, "-subj", subject, "-keyout", key, "-out", request)
        # A client whose clock is behind by less than a day takes them, too.
        begin, end = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 2))
        valid = ["-startdate", f"{begin:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}"]
        signer = ["-selfsign"] if name == "ca" else ["-cert", folder / "ca.pem"]
        common: list[str | Path] = ["-config", settings, "-batch", "-notext", "-extfile", options, *valid]
        out = folder / f"{name}.pem"
        _openssl("ca", *common, *signer, "-keyfile", folder / "ca-key.pem", "-in", request, "-out", out)
    key = folder / "service-accounts-key.pem"
    _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    _openssl("pkey", "-in", key, "-pubout", "-out", folder / "service-accounts.pem")


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def define(folder: Path, processes: Path) -> Credentials:
    """Store the control plane's programs in ``processes``; return who may ask it. ``folder`` is its own."""
    folder.mkdir()
    port = free_port()
    credentials = Credentials.make(folder / "credentials", f"https://127.0.0.1:{port}")
    etcd_url = f"http://127.0.0.1:{free_port()}"
    for name, arguments in (
        ("etcd", _etcd(folder / "etcd", etcd_url)),
        ("kube-apiserver", _api_server(credentials, port, etcd_url)),
        ("kube-controller-manager", _controller_manager(credentials)),
        ("kube-scheduler", _scheduler(credentials)),
    ):
        program = name if name == "etcd" else str(programs.folder() / name)
        ServerProcess.defined(processes, name, [program, *arguments])
    return credentials


def _etcd(data: Path, url: str) -> list[str]:
    peer = f"http://127.0.0.1:{free_port()}"
    return [
        "--name=tests",
        f"--data-dir={data}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=tests={peer}",
    ]


def _api_server(credentials: Credentials, port: int, etcd_url: str) -> list[str]:
    files = credentials.folder
    return [
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={files / 'server.pem'}",
        f"--tls-private-key-file={files / 'server-key.pem'}",
        f"--client-ca-file={files / 'ca.pem'}",
        f"--token-auth-file={files / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        f"--kubelet-client-certificate={files / 'kubelet-client.pem'}",
        f"--kubelet-client-key={files / 'kubelet-client-key.pem'}",
        # A kubelet's address would be one of the machine's network, and here it listens on the loopback.
        "--kubelet-preferred-address-types=Hostname",
        f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={files / 'service-accounts.pem'}",
        f"--service-account-signing-key-file={files / 'service-accounts-key.pem'}",
        # The loopback may not be an endpoint, and there is nothing that would forward to one (`api_service`).
        "--endpoint-reconciler-type=none",
        # How long a pod stays bound to a node that is gone: 300 s by default.
        "--default-unreachable-toleration-seconds=3",
        "--default-not-ready-toleration-seconds=3",
    ]


def _controller_manager(credentials: Credentials) -> list[str]:
    files = credentials.folder
    return [
        *_client(credentials, "controller-manager"),
        "--use-service-account-credentials",
        f"--root-ca-file={files / 'ca.pem'}",
        f"--service-account-private-key-file={files / 'service-accounts-key.pem'}",
        # The nodes' leases are renewed every 5 s: this many seconds of silence and a node is lost.
        "--node-monitor-period=1s",
        "--node-monitor-grace-period=21s",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(credentials: Credentials) -> list[str]:
    return [*_client(credentials, "scheduler"), "--kube-api-qps=200", "--kube-api-burst=400"]


def _client(credentials: Credentials, name: str) -> list[str]:
    path = credentials.kubeconfig_path(name)
    return [
        f"--kubeconfig={path}",
        f"--authentication-kubeconfig={path}",
        f"--authorization-kubeconfig={path}",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
        "--leader-elect=false",
    ]
