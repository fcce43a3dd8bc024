"""What a job may request for its container, and what is rejected before the daemon is called."""

from __future__ import annotations

import math
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from container_manager.executors.allow_lists import is_allowed_image
from container_manager.executors.base import LaunchSpec, Rejected
from container_manager.executors.docker.configuration import container_configuration, fit_cores
from container_manager.executors.docker.options import docker_options
from container_manager.jobs.container_request import ContainerRequest, container_request
from container_manager.testing.conformance import job_fields

pytestmark = pytest.mark.without_database

OPTIONS: dict[str, Any] = {
    "images": ["busybox", "team.example.com:5000/tools/*:1.*"],
    "volumes": {"data": {"source": "/srv/data"}, "cache": {"source": "cache", "read_only": False}},
    "networks": ["backend"],
    "ulimits": {"nofile": 1024},
    "gpus": 2,
    "platforms": ["linux/amd64"],
    "extra_hosts": {"db": "192.0.2.7"},
    "dns": ["192.0.2.53"],
    "shm_bytes": 2**26,
    "pids": 64,
    "memory_bytes": 2**30,
    "cpu_count": 2,
}


def configuration(asked: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **fields: Any) -> Any:
    job, rest = job_fields({"image": "busybox", **fields})
    spec = LaunchSpec(
        **{"key": "cm-i-0-1", "argv": ("true",), **rest}, job=job, container=container_request(asked or {})
    )
    return container_configuration(spec, docker_options({**OPTIONS, **(options or {})}), install="i")


@pytest.mark.parametrize(
    ("asked", "fields", "said"),
    [
        ({"volumes": {"root": "/host"}}, {}, r"no volume 'root'.*data, cache"),
        ({"network": "host"}, {}, r"network 'host' is not allowed.*backend"),
        ({"network": "bridge"}, {}, "network 'bridge' is not allowed"),
        ({"gpus": 3}, {}, "asks for 3 GPUs; .* allows 2"),
        ({"gpus": -1}, {}, "asks for all GPUs; .* allows 2"),
        ({"pids": 65}, {}, "asks for pids=65; the executor's option 'pids' allows 64"),
        ({"ulimits": {"nofile": 1025}}, {}, "asks for nofile=1025; .* option 'ulimits' allows 1024"),
        ({"ulimits": {"memlock": 1}}, {}, "cannot set the limit 'memlock'.*nofile"),
        (
            {},
            {"memory_bytes": 2**30 + 1},
            f"asks for memory_bytes={2**30 + 1}; .* option 'memory_bytes' allows {2**30}",
        ),
        ({}, {"cpu_count": 2.5}, "asks for cpu_count=2.5; .* option 'cpu_count' allows 2"),
        ({}, {"cpu_count": 1e-10}, "asks for cpu_count=1e-10; it can have from 0.01 to 8192"),
        ({}, {"cpu_count": 0.009}, "it can have from 0.01 to 8192"),
        ({}, {"cpu_count": -1.0}, "it can have from 0.01 to 8192"),
        ({}, {"cpu_count": math.nan}, "it can have from 0.01 to 8192"),
        ({}, {"argv": ("sh", "-c", "x" * 32768)}, "command has 32772 bytes; .* 'command_bytes' allows 32768"),
        ({"entrypoint": "x" * 32765}, {}, "command has 32769 bytes"),
        ({}, {"argv": ("é" * 16385,)}, "command has 32770 bytes"),
        ({"platform": "linux/arm64"}, {}, "asks for the platform 'linux/arm64'.*'platforms': linux/amd64"),
        ({"extra_hosts": ["db", "host"]}, {}, "asks for the host 'host'.*'extra_hosts': db"),
        ({"dns": ["192.0.2.1"]}, {}, "asks for the DNS server '192.0.2.1'.*'dns': 192.0.2.53"),
        ({"shm_bytes": 2**26 + 1}, {}, f"asks for shm_bytes={2**26 + 1}; .* option 'shm_bytes' allows {2**26}"),
        (
            {"node_pool": "gpu", "storage_bytes": 1},
            {},
            "Docker cannot give what the job asks for: storage_bytes, node_pool",
        ),
        ({}, {"image": ""}, "names no image"),
        ({}, {"image": "debian"}, r"image 'debian' is not allowed.*busybox, team"),
    ],
)
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_container_request_that_is_not_allowed_is_rejected_with_its_reason(
    asked: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(Rejected, match=said) as rejection:
        configuration(asked, **fields)
    assert rejection.value.reason == ("image" if "image" in said else "start")


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("busybox", True),
        ("busybox:1.36", True),
        ("docker.io/library/busybox:latest", True),
        ("busybox@sha256:" + "0" * 64, True),
        ("index.docker.io/busybox", True),
        ("docker.io/index.docker.io/busybox", False),
        ("index.docker.io/docker.io/busybox", False),
        ("docker.io/library/library/busybox", False),
        ("busybox:5000/evil", False),
        ("evil/busybox", False),
        ("busyboxes", False),
        ("registry.example.com/busybox", False),
        ("team.example.com:5000/tools/lint:1.2", True),
        ("team.example.com:5000/tools/lint:2.0", False),
        ("team.example.com:5000/tools/lint", False),
        ("team.example.com:5000/tools/lint:1.2@sha256:" + "0" * 64, False),
        ("team.example.com/tools/lint:1.2", False),
    ],
)
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_images_are_allowed_by_name_and_tag(image: str, allowed: bool) -> None:
    assert is_allowed_image(image, OPTIONS["images"]) is allowed


_DIGESTS = [f"sha256:{digit * 64}" for digit in "01"]


@pytest.mark.parametrize(
    ("pattern", "image", "allowed"),
    [
        ("lint:1.*@sha256:*", f"lint:1.2@{_DIGESTS[0]}", True),
        ("lint:1.*@sha256:*", f"lint:2.0@{_DIGESTS[0]}", False),
        ("lint:1.*@sha256:*", f"lint@{_DIGESTS[0]}", False),
        ("lint:1.*@sha256:*", "lint:1.2", False),
        (f"lint:1.2@{_DIGESTS[0]}", f"lint:1.2@{_DIGESTS[0]}", True),
        (f"lint:1.2@{_DIGESTS[0]}", f"lint:1.2@{_DIGESTS[1]}", False),
        (f"lint@{_DIGESTS[0]}", f"lint:any@{_DIGESTS[0]}", True),
        (f"lint@{_DIGESTS[0]}", f"lint@{_DIGESTS[1]}", False),
        (f"lint@{_DIGESTS[0]}", "lint:1.2", False),
        # The digest decides what is run.
        ("lint:1.*", f"lint:1.2@{_DIGESTS[0]}", False),
        ("lint", f"lint:1.2@{_DIGESTS[0]}", True),
        ("lint:latest", "lint", True),
        ("lint:latest@sha256:*", f"lint@{_DIGESTS[0]}", False),
    ],
)
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_tag_and_digest_are_each_compared_where_the_pattern_names_them(pattern: str, image: str, allowed: bool) -> None:
    assert is_allowed_image(image, [pattern]) is allowed


_FOLDER = {"source": "/srv/results", "read_only": False}


@pytest.mark.parametrize("user", ["", "root", "0", "0:1000", "000", "app", "app:1000"])
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have", "explanation/attacks.md#setuid-programs")
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_folder_of_the_host_is_not_writable_for_a_user_who_may_be_root(user: str) -> None:
    """Whoever runs a file with the setuid bit on the host becomes its owner."""
    asked = {"volumes": {"results": "/results"}, **({"user": user} if user else {})}
    with pytest.raises(Rejected, match=r"'results' is a folder of the daemon's host.*by number, such as"):
        configuration(asked, options={"volumes": {"results": _FOLDER}})
    if user:
        with pytest.raises(Rejected, match="'results' is a folder of the daemon's host"):
            configuration({"volumes": {"results": "/results"}}, options={"volumes": {"results": _FOLDER}, "user": user})


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"user": "1000:1000"}, {"volumes": {"results": _FOLDER}}),
        ({}, {"volumes": {"results": _FOLDER}, "user": "1000"}),
        ({}, {"volumes": {"results": {**_FOLDER, "allow_root": True}}}),
        ({}, {"volumes": {"results": {**_FOLDER, "read_only": True}}}),
        # Of a volume of the daemon the host's users see nothing.
        ({}, {"volumes": {"results": {"source": "results", "read_only": False}}}),
    ],
)
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_folder_of_the_host_is_writable_for_a_user_who_cannot_be_root(
    asked: dict[str, Any], options: dict[str, Any]
) -> None:
    found = configuration({"volumes": {"results": "/results"}, **asked}, options=options)
    assert [mount["Target"] for mount in found["HostConfig"]["Mounts"]] == ["/results"]


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_no_image_is_allowed_unless_the_settings_say_so() -> None:
    assert not is_allowed_image("busybox", docker_options({}).images)
    assert is_allowed_image("any.example.com/thing:1", ["*"])


@pytest.mark.shows("howto/docker.md#relax-the-defaults", "explanation/attacks.md#all-disk")
def test_a_default_container_is_hardened() -> None:
    host = configuration(memory_bytes=2**24)["HostConfig"]
    expected = {
        "Init": True, "CapDrop": ["ALL"], "CapAdd": [], "SecurityOpt": ["no-new-privileges"], "Privileged": False,
        "NetworkMode": "none", "Mounts": [], "PidsLimit": 64, "Memory": 2**24, "MemorySwap": 2**24, "IpcMode": "private",
        "DeviceRequests": [],
    }  # fmt: skip
    assert {name: host[name] for name in expected} == expected
    assert "Binds" not in host
    log = {"max-size": str(128 << 20), "max-file": "2", "compress": "false"}
    assert host["LogConfig"] == {"Type": "local", "Config": log}


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_allowed_container_requests_are_granted() -> None:
    asked = {
        "user": "1000:1000", "read_only": True, "tmpfs": {"/scratch": 4096}, "ulimits": {"nofile": 100}, "gpus": 1,
        "volumes": {"data": "/data", "cache": "/cache"}, "network": "backend", "pids": 8,
    }  # fmt: skip
    found = configuration(asked, cpu_count=1.5, working_directory="/w", labels={"team": "a"}, environment={"A": "b c"})
    host = found["HostConfig"]
    assert (found["User"], found["WorkingDir"], found["Env"], found["Cmd"]) == ("1000:1000", "/w", ["A=b c"], ["true"])
    assert found["Labels"] == {
        "container-manager.job.team": "a",
        "container-manager.install": "i",
        "container-manager.key": "cm-i-0-1",
    }
    assert host["Tmpfs"] == {"/scratch": "rw,noexec,nosuid,nodev,size=4096"}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 100}]
    assert [(m["Type"], m["Source"], m["Target"], m["ReadOnly"]) for m in host["Mounts"]] == [
        ("bind", "/srv/data", "/data", True),
        ("volume", "cache", "/cache", False),
    ]
    assert (host["NetworkMode"], host["NanoCpus"], host["PidsLimit"], host["ReadonlyRootfs"]) == (
        "backend", 1_500_000_000, 8, True,
    )  # fmt: skip
    assert host["DeviceRequests"] == [{"Driver": "", "Count": 1, "Capabilities": [["gpu"]]}]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "JSON object, not list"),
        ({"privileged": True}, "'privileged' is not known. Known: user, pids"),
        ({"volumes": {"/etc": "/host"}}, "'volumes' must be"),
        ({"volumes": {"data": "/a:/b"}}, "'volumes' must be"),
        ({"volumes": {"data": "/a/../b"}}, "'volumes' must be"),
        ({"tmpfs": {"/scratch": "1g,exec"}}, "'tmpfs' must be"),
        ({"tmpfs": {"tmp": 1}}, "'tmpfs' must be"),
        ({"tmpfs": {"/" + "a/" * 256: 1}}, "'tmpfs' must be"),
        ({"tmpfs": {"/" + "a" * 256: 1}}, "'tmpfs' must be"),
        ({"tmpfs": {f"/{number}": 1 for number in range(65)}}, "'tmpfs' must be"),
        ({"volumes": {"data": "/" + "a/" * 256}}, "'volumes' must be"),
        ({"dns": ["1.1.1.1"] * 65}, "'dns' must be"),
        ({"extra_hosts": ["db"] * 65}, "'extra_hosts' must be"),
        ({"user": "0;id"}, "'user' must be"),
        ({"user": "9" * 20_000_000}, r"'user' must be .* not '9{199} …\.$"),
        ({"network": "container:other"}, "'network' must be"),
        ({"pids": 0}, "'pids' must be a positive number"),
        ({"pids": True}, "'pids' must be a positive number"),
        ({"gpus": -2}, "'gpus' must be"),
        ({"read_only": "no"}, "'read_only' must be true or false"),
        ({"ulimits": {"NOFILE": 1}}, "'ulimits' must be"),
        ({"entrypoint": ""}, "'entrypoint' must be a program"),
        ({"entrypoint": "'open"}, "'entrypoint' must be a program"),
        ({"entrypoint": "a\0b"}, "'entrypoint' must be a program"),
        ({"entrypoint": ["sh"]}, "'entrypoint' must be a program"),
        ({"platform": "linux"}, "'platform' must be a platform such as linux/arm64"),
        ({"shm_bytes": 0}, "'shm_bytes' must be a positive number"),
        ({"extra_hosts": "db"}, "'extra_hosts' must be a list"),
        ({"extra_hosts": ["db:10.0.0.1"]}, "'extra_hosts' must be a list"),
        ({"dns": ["ns.example.com"]}, "'dns' must be a list of addresses"),
    ],
)
def test_an_invalid_container_request_is_named(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        container_request(value)


def test_an_empty_container_request_means_the_defaults() -> None:
    assert container_request({}) == ContainerRequest()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": ["a"]}, "no option 'image'. Known: base_url, tls"),
        ({"images": "busybox"}, "'images' must be a list of patterns"),
        ({"volumes": {"a": "/srv"}}, "'volumes' must be"),
        ({"volumes": {"a": {"source": "/srv", "readonly": True}}}, "'volumes' must be"),
        ({"networks": ["host"]}, "network 'host' would let jobs out"),
        ({"network": "container:db"}, "network 'container:db' would let jobs out"),
        ({"base_url": "http://there"}, "must begin with unix://, tcp:// or ssh://"),
        ({"base_url": "tcp://127.0.0.1:2375"}, "without 'tls' would obey whoever reaches"),
        ({"tls": {"ca": "ca.pem"}}, "must name the files 'ca', 'cert' and 'key'"),
        ({"pull": "sometimes"}, "'pull' must be one of missing, always, never"),
        ({"pids": 0}, "'pids' must be"),
        ({"gpus": "all"}, "'gpus' must be"),
        ({"gpus": False}, "'gpus' must be"),
        ({"gpus": 0.0}, "'gpus' must be"),
        ({"registries": {"r": {"username": "u"}}}, "'registries' must be"),
        ({"tmpfs": {"tmp": 1}}, "'tmpfs' must be"),
        ({"tmpfs": {"/" + "a/" * 256: 1}}, "'tmpfs' must be"),
        ({"tmpfs": {"/" + "a" * 256: 1}}, "'tmpfs' must be"),
        ({"tmpfs": {f"/{number}": 1 for number in range(65)}}, "'tmpfs' must be"),
        ({"volumes": {"data": "/" + "a/" * 256}}, "'volumes' must be"),
        ({"tmpfs": 0}, "'tmpfs' must be"),
        ({"ulimits": []}, "'ulimits' must be"),
        ({"user": None}, "'user' must be"),
        ({"volumes": {"a": {"source": ""}}}, "'volumes' must be"),
        ({"volumes": {"a": {"source": "a", "read_only": False, "owner": "app"}}}, "'volumes' must be"),
        ({"volumes": {"a": {"source": "a", "owner": "1:1"}}}, "'volumes' must be"),
        ({"volumes": {"a": {"source": "/a", "read_only": False, "owner": "1:1"}}}, "'volumes' must be"),
        ({"volumes": {"a": {"source": "/a", "allow_root": 1}}}, "'volumes' must be"),
        ({"platforms": "linux/amd64"}, "'platforms' must be a list"),
        ({"extra_hosts": {"db": "db.example.com"}}, "'extra_hosts' must be names and addresses"),
        ({"dns": ["ns.example.com"]}, "'dns' must be a list of addresses"),
        ({"shm_bytes": 0}, "'shm_bytes' must be a positive number"),
        ({"memory_bytes": "1g"}, "'memory_bytes' must be"),
        ({"cpu_count": 0}, "'cpu_count' must be"),
        ({"keep_failed_seconds": -1}, "'keep_failed_seconds' must be"),
        ({"command_bytes": 0}, "'command_bytes' must be"),
        ({"storage_bytes": "10g"}, "'storage_bytes' must be"),
        ({"ignore_missing_limits": 1}, "'ignore_missing_limits' must be"),
        ({"log_bytes": 0}, "'log_bytes' must be"),
        ({"timeout_seconds": None}, "'timeout_seconds' must be"),
        ({"runtime": 1, "capabilities": "CHOWN"}, "'runtime' must be.*'capabilities' must be"),
    ],
)
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_every_wrong_docker_option_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        docker_options(options)


def test_a_job_cannot_change_what_the_executor_fixes() -> None:
    fixed = {"user": "1000:1000", "read_only": True}
    found = configuration(options=fixed)
    assert (found["User"], found["HostConfig"]["ReadonlyRootfs"]) == ("1000:1000", True)
    assert configuration({"user": "1000:1000", "read_only": True}, options=fixed) == found
    for asked in ({"user": "root"}, {"read_only": False}):
        with pytest.raises(Rejected, match="the executor's option says"):
            configuration(asked, options=fixed)


def test_an_executors_limits_are_the_default_and_a_job_may_request_less() -> None:
    host = configuration()["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (2**30, 2**30, 2_000_000_000)
    host = configuration(memory_bytes=2**24, cpu_count=0.5)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (2**24, 2**24, 500_000_000)
    unlimited: dict[str, Any] = {"memory_bytes": None, "cpu_count": None}
    host = configuration(options=unlimited)["HostConfig"]
    assert not {"Memory", "MemorySwap", "NanoCpus"} & set(host)


@pytest.mark.parametrize("cores", [8193, 1e300, math.inf])
def test_no_job_gets_more_cores_than_a_kernel_can_have(cores: float) -> None:
    with pytest.raises(Rejected, match=r"it can have from 0\.01 to 8192"):
        configuration(cpu_count=cores, options={"cpu_count": None})


def test_a_jobs_labels_are_told_apart_from_all_others() -> None:
    labels = {"container-manager.install": "other", "traefik.enable": "true"}
    assert configuration(labels=labels)["Labels"] == {
        "container-manager.job.container-manager.install": "other",
        "container-manager.job.traefik.enable": "true",
        "container-manager.install": "i",
        "container-manager.key": "cm-i-0-1",
    }


def test_a_request_for_more_cores_than_the_host_has_is_reduced_to_those_it_has() -> None:
    for asked, fitted in ((2.0, False), (1.5, False), (2.5, True)):
        found = configuration(cpu_count=asked, options={"cpu_count": None})
        assert fit_cores(found, 2) is fitted
        assert found["HostConfig"]["NanoCpus"] == min(asked, 2) * 10**9
    assert not fit_cores(configuration(options={"cpu_count": None}), 2)


def test_a_network_may_have_almost_any_name() -> None:
    assert docker_options({"networks": ["hosted", "containers"]}).networks == ["hosted", "containers"]
