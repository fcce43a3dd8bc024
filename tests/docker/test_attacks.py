"""What a job that nobody trusts may try: docs/explanation/attacks.md has a row for each test here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.test import override_settings

from container_manager.conf import AppSettings
from container_manager.executors.base import Executor, Rejected
from container_manager.models import ContainerJob, JobAttempt, JobLog, JobTransition
from container_manager.testing.conformance import ended, output, text

from ..workers import eventually
from .docker_harness import DockerHarness
from .image import IMAGE
from .site import Site, output_of

_MEBIBYTE = 1 << 20


def attempt(harness: DockerHarness, executor: Executor, script: str, **fields: Any) -> str:
    """Run a script to its end, and return what it has printed on both streams."""
    spec = harness.spec(script, **fields)
    handle = executor.submit(spec)
    chunks = output(executor, handle)
    ended(executor, spec.key)
    executor.remove(handle)
    return (text(chunks) + text(chunks, "stderr")).decode(errors="replace")


def each(*commands: str) -> str:
    """Return a script that says of each command whether it succeeded: lines ``0 …`` are those that did."""
    return "; ".join(f"( {command} ) >/dev/null 2>&1; echo $? {shlex.quote(command)}" for command in commands)


def succeeded(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("0 ")]


@pytest.fixture
def site(docker_url: str, tmp_path: Path) -> Iterator[Site]:
    limits = {"grace_seconds": 1}
    site = Site(docker_url, tmp_path, limits=limits, pids=64, memory_bytes=64 * _MEBIBYTE, pull="never")
    yield site
    site.clean_up()


class TestEscapes:
    @pytest.mark.shows("explanation/attacks.md#mounts-devices-namespaces")
    def test_a_container_cannot_mount_open_devices_or_join_namespaces(
        self, harness: DockerHarness, executor: Executor
    ) -> None:
        printed = attempt(
            harness,
            executor,
            each(
                "mkdir -p /m && mount -t tmpfs none /m",
                "mount -o remount,rw /proc/sys",
                "mount -t cgroup none /m",
                "mknod /disk b 8 0 && head -c 1 /disk",
                "mknod /mem c 1 1 && head -c 1 /mem",
                "unshare -m true",
                "unshare -U true",
                "unshare -n true",
                "chroot / true",
                "nsenter -t 1 -m true",
                "hostname other",
                "swapoff -a && swapon /bin/busybox",
            ),
        )
        assert succeeded(printed) == []
        assert len(printed.splitlines()) == 12

    @pytest.mark.shows("explanation/attacks.md#kernel-settings")
    def test_a_container_cannot_change_kernel_settings(self, harness: DockerHarness, executor: Executor) -> None:
        printed = attempt(
            harness,
            executor,
            each(
                "echo '|/bin/sh' > /proc/sys/kernel/core_pattern",
                "echo b > /proc/sysrq-trigger",
                "echo 1 > /proc/sys/vm/drop_caches",
                "echo x > /sys/kernel/uevent_helper",
                "echo -1000 > /proc/self/oom_score_adj",
                "head -c 1 /proc/kcore",
                "dmesg -c",
                "find /sys/fs/cgroup -name release_agent -exec sh -c 'echo /x > {}' ';' -quit; false",
            ),
        )
        assert succeeded(printed) == []

    @pytest.mark.shows("explanation/attacks.md#processes-of-the-host")
    def test_a_container_cannot_see_or_kill_processes_of_the_host(
        self, harness: DockerHarness, executor: Executor
    ) -> None:
        me = psutil.Process()
        printed = attempt(harness, executor, "ls /proc | grep -c '^[0-9]'; kill -9 -1; kill -9 1; echo still here")
        assert int(printed.splitlines()[0]) < 10
        assert me.is_running()
        assert executor.check().ok

    @pytest.mark.shows("explanation/attacks.md#socket-of-the-daemon")
    @pytest.mark.shows("explanation/attacks.md#networks")
    def test_the_socket_of_the_daemon_is_in_no_container(self, harness: DockerHarness, executor: Executor) -> None:
        path = harness.url.removeprefix("unix://")
        assert succeeded(attempt(harness, executor, each(f"ls {path}", "ls /var/run/docker.sock", "ls /run"))) == []

    def test_a_container_has_no_network_and_cannot_ask_for_another(
        self, harness: DockerHarness, executor: Executor
    ) -> None:
        printed = attempt(harness, executor, "tail -n +3 /proc/net/dev | cut -d : -f 1; cat /proc/net/route")
        assert not re.search(r"\b(eth|docker|veth|ens|enp|br)", printed)
        for network in ("host", "bridge", f"container:{harness.install}", "default"):
            with pytest.raises(Rejected) as rejection:
                executor.submit(harness.spec("true", container={"network": network}))
            assert rejection.value.reason == "start"
        assert harness.containers() == []

    @pytest.mark.shows("explanation/attacks.md#setuid-programs")
    def test_a_setuid_program_gains_no_privileges(self, harness: DockerHarness, executor: Executor) -> None:
        """Made by a job in its container, and run there as another user."""
        script = "cp /bin/busybox /bin/root && chmod 4755 /bin/root && grep NoNewPrivs /proc/self/status"
        assert attempt(harness, executor, script).split()[-1] == "1"
        assert attempt(harness, executor, "id -u", container={"user": "1000"}).split() == ["1000"]
        # Without its capabilities it may not become another user, either.
        assert succeeded(attempt(harness, executor, each("su user -c true", "chown 1000 /etc/passwd"))) == []

    @pytest.mark.parametrize(
        "image",
        [
            "evil/cm-test:latest",
            "docker.io/evil/cm-test:latest",
            "registry.example.com/cm-test:latest",
            "registry.example.com:5000/cm-test:latest",
            "docker.io/library/docker.io/library/cm-test:latest",
            "cm-test:latest/../evil",
            "cm-test@sha256:" + "0" * 64,
            "cm-testing",
            "CM-TEST:latest",
            " cm-test:latest",
            "",
        ],
    )
    @pytest.mark.shows("explanation/attacks.md#look-alike-images")
    def test_an_image_with_a_look_alike_name_is_rejected(
        self, harness: DockerHarness, executor: Executor, image: str
    ) -> None:
        with pytest.raises(Rejected) as rejection:
            executor.submit(harness.spec("true", image=image))
        assert rejection.value.reason == "image"
        assert harness.containers() == []

    @pytest.mark.parametrize(
        "volumes",
        [{"/": "/host"}, {"/etc": "/e"}, {"effects": "/e:rw"}, {"../effects": "/e"}, {"effects": "/e/../../x"}],
        ids=str,
    )
    @pytest.mark.shows("explanation/attacks.md#folders-of-the-host")
    def test_a_volume_cannot_name_a_folder_of_the_host(self, volumes: dict[str, str]) -> None:
        with pytest.raises(ValidationError) as error:
            ContainerJob(image=IMAGE, command="true", container={"volumes": volumes}).clean()
        assert set(error.value.message_dict) == {"container"}

    @pytest.mark.shows("explanation/attacks.md#shell-of-the-worker")
    def test_no_shell_of_the_worker_interprets_a_command(self, harness: DockerHarness, executor: Executor) -> None:
        word = "a; touch $EFFECTS/b `touch $EFFECTS/c` $(touch $EFFECTS/d) | touch e"
        assert attempt(harness, executor, 'printf %s "$0"', argv=("sh", "-c", 'printf %s "$0"', word)) == word
        assert list(harness.effects().iterdir()) == []

    @pytest.mark.shows("explanation/attacks.md#labels-of-others")
    def test_a_job_cannot_set_labels_of_other_installations(self, harness: DockerHarness, executor: Executor) -> None:
        foreign = {"container-manager.install": "other", "container-manager.key": "other", "com.example.run": "1"}
        spec = harness.spec("sleep 60", labels=foreign)
        executor.submit(spec)
        [container] = harness.containers()
        assert container["Labels"]["container-manager.key"] == spec.key
        assert "com.example.run" not in container["Labels"]


class TestExhaustion:
    @pytest.mark.shows("explanation/attacks.md#fork-bomb")
    def test_a_fork_bomb_is_stopped_by_the_limit_of_processes(self, harness: DockerHarness) -> None:
        executor = harness.executor(pids=32)
        script = "i=0; while [ $i -lt 100 ]; do sleep 600 & i=$((i+1)); done 2>/dev/null; ls /proc | grep -c '^[0-9]'"
        printed = attempt(harness, executor, f"({script}); ls /proc | grep -c '^[0-9]' || echo full")
        assert all(int(word) <= 33 for word in printed.split() if word.isdigit())
        with pytest.raises(Rejected):
            executor.submit(harness.spec("true", container={"pids": 33}))
        executor.close()

    @pytest.mark.shows("explanation/attacks.md#all-memory")
    def test_a_job_beyond_its_memory_limit_is_killed(self, harness: DockerHarness) -> None:
        executor = harness.executor(memory_bytes=16 * _MEBIBYTE)
        spec = harness.spec("exec tail /dev/zero")
        executor.submit(spec)
        status = ended(executor, spec.key)
        assert (status.code, status.succeeded) == (137, False)
        for asked in ({"memory_bytes": 17 * _MEBIBYTE}, {"memory_bytes": 2**63}):
            with pytest.raises(Rejected):
                executor.submit(harness.spec("true", **asked))
        executor.close()

    @pytest.mark.shows("explanation/attacks.md#all-cores")
    def test_a_job_gets_no_more_cores_than_its_limit(self, harness: DockerHarness) -> None:
        executor = harness.executor(cpu_count=0.5)
        limit = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d ' ' -f 1 /sys/fs/cgroup/cpu.max"
        assert attempt(harness, executor, limit).split() == ["50000"]
        with pytest.raises(Rejected):
            executor.submit(harness.spec("true", cpu_count=1e300))
        executor.close()

    @pytest.mark.shows("explanation/attacks.md#all-disk")
    def test_a_container_with_read_only_files_cannot_fill_the_disk(self, harness: DockerHarness) -> None:
        executor = harness.executor(read_only=True, tmpfs={"/scratch": _MEBIBYTE})
        fill = ("head -c 2000000 /dev/zero > /file", "head -c 2000000 /dev/zero > /scratch/file", "cp /bin/sh /bin/x")
        assert succeeded(attempt(harness, executor, each(*fill))) == []
        run = "cp /bin/busybox /scratch/sh && /scratch/sh true"
        assert succeeded(attempt(harness, executor, each(run))) == []
        executor.close()

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.shows("explanation/attacks.md#floods")
    def test_other_jobs_complete_beside_hostile_jobs(self, site: Site) -> None:
        """Fork bombs, floods, and jobs that end for nobody: each is ended by its limit, and the others complete."""
        hostile = [
            site.enqueue("bomb() { bomb | bomb & }; bomb; sleep 600", timeout_seconds=5),
            site.enqueue("exec yes", timeout_seconds=5),
            site.enqueue("while :; do echo out; echo err >&2; done", timeout_seconds=5),
            site.enqueue("trap '' TERM; while :; do sleep 0.1; done", timeout_seconds=2, grace_seconds=2**31 - 1),
            site.enqueue("setsid sleep 600 & setsid sleep 600 & exit 1"),
            site.enqueue("exec tail /dev/zero"),
        ]
        well = [site.enqueue("echo well") for _ in range(6)]
        with site.worker("--slots", "8", lease_seconds=60.0) as process:
            for job in well:
                site.await_status(job, "completed")
            for job in hostile:
                site.await_status(job, "failed")
                assert job.failure_reason in {"timeout", "error", "oom", "signal"}, job.last_error
                stored = sum(len(row.data) for row in JobLog.objects.filter(attempt__job=job))
                # And the line that says how much was dropped.
                assert stored <= AppSettings().log_limit_bytes + 1024
            assert process.poll() is None
            site.assert_clean()
        assert {output_of(job) for job in well} == {b"well\n"}

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.shows("explanation/attacks.md#endless-grace-period")
    def test_a_cancelled_job_with_a_grace_period_of_years_is_stopped(self, site: Site) -> None:
        with site.worker("--slots", "1"):
            job = site.enqueue(
                "trap '' TERM; echo > $EFFECTS/deaf; while :; do sleep 0.1; done", grace_seconds=2**31 - 1
            )
            eventually((site.effects() / "deaf").exists)
            job.refresh_from_db()
            job.mark_as_cancelled()
            site.await_status(job, "cancelled")
            site.assert_clean()


@pytest.mark.django_db(transaction=True)
class TestSecrets:
    @pytest.mark.parametrize(
        "reference",
        ["env:PATH", "env:HOME", "env:CM_REGISTRY_SHOP", "file:../passwd", "file:/etc/passwd", "file:registries", "x"],
    )
    @pytest.mark.shows("explanation/attacks.md#references-to-secrets")
    def test_a_reference_to_a_secret_that_is_not_for_jobs_reveals_nothing(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, reference: str
    ) -> None:
        monkeypatch.setenv("CM_REGISTRY_SHOP", "hidden-value")
        try:
            job = site.enqueue("env", secrets={"STOLEN": reference})
        except ValidationError as error:
            refused = set(error.message_dict)
        else:
            refused = set()
            with site.worker("--slots", "1"):
                site.await_status(job, "failed")
                site.assert_clean()
            assert job.failure_reason == "start"
            assert output_of(job) == b""
            assert "hidden-value" not in job.last_error + site.log.read_text()
        assert refused <= {"secrets"}

    @pytest.mark.shows("explanation/attacks.md#environment-of-the-worker")
    def test_the_environment_of_the_worker_reaches_no_container(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_PASSWORD", "hidden-value")
        with site.worker("--slots", "1"):
            job = site.enqueue("env; cat /proc/1/environ /proc/self/environ")
            site.await_status(job, "completed")
            site.assert_clean()
        assert b"hidden-value" not in output_of(job)
        assert b"DATABASE_PASSWORD" not in output_of(job)

    @pytest.mark.shows("explanation/attacks.md#values-in-rows")
    def test_a_secret_is_in_no_row_and_no_log_of_the_worker(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CM_SECRET_KEY", "hidden-value")
        script = 'echo "$KEY"; test "$KEY" = hidden-""value && exit 3; exit 4'
        allowed = {"env:CM_SECRET_KEY": ""}
        with override_settings(CONTAINER_MANAGER={"SECRETS": allowed}), site.worker("--slots", "1", SECRETS=allowed):
            job = site.enqueue(script, secrets={"KEY": "env:CM_SECRET_KEY"})
            site.await_status(job, "failed")
            assert job.exit_code == 3
            site.assert_clean()
        for model in (ContainerJob, JobAttempt, JobTransition, JobLog):
            assert "hidden-value" not in serializers.serialize("json", model.objects.all())
        assert "hidden-value" not in site.log.read_text()

    @pytest.mark.shows("explanation/attacks.md#name-of-another-job")
    def test_a_job_cannot_pretend_to_be_another_job(self, site: Site) -> None:
        """A job that calls itself another one, to what reads its variables."""
        command = shlex.join(["sh", "-c", "echo $CONTAINER_MANAGER_JOB $CONTAINER_MANAGER_ATTEMPT"])
        forged = {"CONTAINER_MANAGER_JOB": "other", "CONTAINER_MANAGER_ATTEMPT": "9"}
        # Without validation: however it came into the table.
        job = ContainerJob(command=command, image=IMAGE, executor="docker", environment=forged)
        job.save()
        job.mark_as_queued()
        with site.worker("--slots", "1"):
            site.await_status(job, "completed", "failed")
            site.assert_clean()
        # Where it is refused, it says nothing at all.
        assert output_of(job).decode().split() in ([str(job.pk), "1"], [])
