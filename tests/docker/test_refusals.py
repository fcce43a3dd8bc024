"""What is final and what may work later, told by the form of an error's text. The texts are the daemon's own."""

from __future__ import annotations

import pytest

from container_manager.executors.docker.refusals import is_final_launch, is_final_pull

pytestmark = pytest.mark.without_database

_OCI = "OCI runtime create failed: container_linux.go:380: starting container process caused: "


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, "unauthorized: authentication required"),
        (500, 'Head "http://registry/v2/x/manifests/1": no basic auth credentials'),
        (500, 'Get "https://registry/v2/": unauthorized: incorrect username or password'),
        (404, "pull access denied for x, repository does not exist or may require 'docker login': denied: no"),
        (404, "manifest for x:1 not found: manifest unknown: manifest unknown"),
        (404, "repository x not found: name unknown: no such repository"),
        (500, "error parsing HTTP 404 response body: invalid character '<' looking for beginning of value: \"<html>\""),
        (500, "error parsing HTTP 403 response body: unexpected end of JSON input"),
        (500, "failed to resolve reference: unexpected status from HEAD request to https://r/v2/x: 403 Forbidden"),
        (500, 'failed to resolve reference "docker.io/library/x:1": docker.io/library/x:1: not found'),
        (0, "initializing source docker://r/x:1: reading manifest 1 in r/x: manifest unknown"),
        (400, "invalid reference format"),
        (500, "no matching manifest for linux/amd64 in the manifest list entries"),
    ],
)
def test_a_pull_error_that_says_missing_or_denied_is_final(status: int, text: str) -> None:
    assert is_final_pull(text, status=status)


@pytest.mark.parametrize(
    "text",
    [
        "received unexpected HTTP status: 500 Internal Server Error",
        "received unexpected HTTP status: 520 ",
        "error parsing HTTP 408 response body: unexpected end of JSON input",
        "error parsing HTTP 429 response body: invalid character 'T' looking for beginning of value: \"Too many\"",
        "toomanyrequests: You have reached your pull rate limit.",
        "toomanyrequests: denied: manifest unknown: slow down",
        "unexpected EOF",
        'Get "https://registry/v2/": EOF',
        'Get "https://registry/v2/": dial tcp: lookup registry: no such host',
        'Get "https://registry/v2/": dial unix /x: connect: permission denied',
        "write /var/lib/docker/tmp/GetImageBlob: no space left on device",
        "filesystem layer verification failed for digest sha256:00",
        "something that nobody has seen before",
        "",
    ],
)
def test_any_other_pull_error_is_temporary(text: str) -> None:
    assert not is_final_pull(text, status=500)


def test_a_denied_or_missing_layer_after_a_pull_has_begun_is_temporary() -> None:
    for text in ("unauthorized: token expired", "unknown blob", "denied: no"):
        assert not is_final_pull(text, begun=True)
    assert is_final_pull("no matching manifest for linux/amd64 in the manifest list entries", begun=True)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, f'{_OCI}exec: "nothing": executable file not found in $PATH: unknown'),
        (500, f'{_OCI}exec: "/a": exec format error: unknown'),
        (500, f'{_OCI}rootfs_linux.go:76: mounting "/a" to rootfs at "/etc/passwd" caused: not a directory: unknown'),
        (
            500,
            f"{_OCI}process_linux.go:545: setting rlimits for ready process caused: operation not permitted: unknown",
        ),
        (
            500,
            f"{_OCI}process_linux.go:545: container init caused: container init was OOM-killed (memory limit too low?)",
        ),
        (500, "unable to find user nobody: no matching entries in passwd file"),
        (400, "Minimum memory limit allowed is 6MB"),
        (403, "authorization denied by plugin no-root: root is not allowed"),
        # What the job itself has said does not count.
        (400, f'{_OCI}exec: "no space left on device": executable file not found in $PATH: unknown'),
    ],
)
def test_a_daemons_refusal_of_what_the_job_requests_is_final(status: int, text: str) -> None:
    assert is_final_launch(text, status=status)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, f"{_OCI}process_linux.go:367: fork/exec /proc/self/exe: resource temporarily unavailable: unknown"),
        (500, f"{_OCI}process_linux.go:367: cannot allocate memory: unknown"),
        (500, f'{_OCI}mkdir "/run/runc/x": no space left on device: unknown'),
        (500, f'{_OCI}rootfs_linux.go:76: mounting "/a" to rootfs at "/b" caused: device or resource busy: unknown'),
        (500, f"{_OCI}process_linux.go:508: unable to apply cgroup configuration: permission denied: unknown"),
        (500, "context deadline exceeded"),
        (500, 'exec: "docker-init": executable file not found in $PATH'),
        (400, f'{_OCI}exec: "/sbin/docker-init": stat /sbin/docker-init: no such file or directory: unknown'),
        (409, "container is marked for removal and cannot be started"),
        (404, "network jobs not found"),
        (408, ""),
        (429, "too many requests"),
        (500, "something that nobody has seen before"),
        (503, ""),
    ],
)
def test_a_daemons_refusal_for_what_the_host_lacks_or_an_unknown_reason_is_temporary(status: int, text: str) -> None:
    assert not is_final_launch(text, status=status)
