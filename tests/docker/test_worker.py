"""Real workers on a real daemon: reasons, messages and exit codes, retries, output, orphans and kept containers."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from container_manager.conf import AppSettings
from container_manager.executors.base import Phase
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker
from container_manager.queue import explain
from container_manager.testing.conformance import ended, observation

from ..jobs import journal_of
from ..polling import PATIENCE_SECONDS, eventually
from ..workers import start_worker
from .image import IMAGE
from .proxy import proxy
from .site import BEGUN, DONE, Site, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_MEBIBYTE = 1024 * 1024
_OUTPUT_BYTES = 64 * _MEBIBYTE


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_each_kind_of_container_exit_has_its_reason_message_and_exit_code(site: Site) -> None:
    memory = {"memory_bytes": 16 * _MEBIBYTE}
    # The kernel's word of it may come late, and the daemon's after that of the end: never where it comes with the start.
    eat = "sleep 1; tail /dev/zero"
    cases: dict[str, tuple[Any, ...]] = {}

    def case(name: str, job: ContainerJob, *expected: Any) -> None:
        cases[name] = (job, *expected)

    case("exit", site.enqueue("exit 7"), "error", 7, None, "Exit code 7.", True)
    case("signal", site.enqueue("kill -TERM $$"), "signal", 143, 15, "Ended by signal 15 (SIGTERM).", True)
    case("kill", site.enqueue("kill -KILL $$"), "signal", 137, 9, "Ended by signal 9 (SIGKILL).", True)
    case(
        "oom",
        site.enqueue(f"exec sh -c '{eat}; exit $?'", **memory),
        "oom",
        137,
        None,
        f"limit: {16 * _MEBIBYTE} bytes",
        True,
    )
    case(
        "timeout",
        site.enqueue("sleep 600", timeout_seconds=15, grace_seconds=60),
        "timeout",
        143,
        15,
        "longer than 15 s",
        True,
    )
    case(
        "deaf",
        site.enqueue("trap '' TERM; while :; do sleep 0.1; done", timeout_seconds=15),
        "timeout",
        137,
        9,
        "longer than 15 s",
        True,
    )
    case("missing image", site.enqueue("true", image="cm-test:missing"), "image", None, None, "cm-test:missing", False)
    case("other image", site.enqueue("true", image="other:1"), "image", None, None, "not allowed", False)
    case("missing program", site.enqueue_command("/no/such/program"), "start", 127, None, "No such file", False)
    case("permission", site.enqueue_command("/etc/passwd"), "start", 126, None, "ermission denied", False)
    case("directory", site.enqueue("true", working_directory="relative"), "start", None, None, "", False)
    # Words in the init process's own way, with a byte that not every database takes in a text.
    said = r"printf '[FATAL tini (7)] exec a failed: b\000c' >&2; exit 1"
    case("odd last words", site.enqueue(said), "start", 1, None, r"b\x00c", False)

    def unchecked(**fields: Any) -> ContainerJob:
        job = site.enqueue("true")
        ContainerJob.objects.filter(pk=job.pk).update(**fields)
        return job

    # None of these is the daemon's absence: it is not even told of them.
    long, wide, deep = shlex.join(["true", "x" * 200_000]), {"A": "x" * 20_000_000}, "/" + "a/" * 300
    case("long argument", unchecked(command=long), "start", None, None, "has 200000 bytes", False)
    case("large environment", unchecked(environment=wide), "start", None, None, "has 20000002 bytes", False)
    case("deep folder", unchecked(working_directory=deep), "start", None, None, "at most 255 names", False)
    case("endless cores", unchecked(cpu_count=1e300), "start", None, None, "from 0.01 to 8192", False)
    well = site.enqueue("echo out; echo err >&2")
    child = site.enqueue("sleep 1; tail /dev/zero; echo $?; exit 0", **memory)
    with site.worker("--slots", "6"):
        for name, (job, reason, code, number, text, _) in cases.items():
            site.await_status(job, "failed")
            attempt = job.attempts.get()
            found = (job.failure_reason, job.exit_code, attempt.reason, attempt.exit_code, attempt.signal)
            assert found == (reason, code, reason, code, number), (name, job.last_error)
            assert text in job.last_error, name
            assert attempt.message == job.last_error, name
            assert explain(job).code == reason, name
        limit = f"Its limit of memory: 16.0 MiB ({memory['memory_bytes']} bytes)"
        assert any(line.startswith(limit) for line in explain(cases["oom"][0]).evidence)
        for job in (well, child):
            site.await_status(job, "completed")
            assert (job.exit_code, job.failure_reason, job.last_error, attempts_of(job)) == (0, "", "", [(1, 0, "")])
        assert (output_of(well), output_of(well, "stderr")) == (b"out\n", b"err\n")
        assert output_of(child) == b"137\n"
        assert journal_of(well) == [("queued", "running"), ("running", "completed")]
        site.assert_clean()
    # Permanent or worth a retry, as the settings' documentation says.
    reasons = AppSettings().retry.reasons
    assert {name: reason in reasons for name, (_, reason, *_) in cases.items()} == {
        name: case[-1] for name, case in cases.items()
    }


def test_an_out_of_memory_event_may_come_after_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does now and then: here it is the test's own, of a container that was killed otherwise."""
    executor = site.executor()
    late, never = (site.spec("sleep 0.5; kill -KILL $$", memory_bytes=16 * _MEBIBYTE) for _ in range(2))
    # However slow the test is, its word comes before this is over.
    with monkeypatch.context() as patience:
        patience.setattr("container_manager.executors.docker.view._OUT_OF_MEMORY_SECONDS", 600.0)
        executor.submit(late)
        executor.observe()
        known = executor._view._containers
        eventually(lambda: late.key in known and known[late.key].doubt_until is not None)
        assert observation(executor, late.key).phase is Phase.RUNNING
    executor._view._take_event({"Action": "oom", "Actor": {"Attributes": {"container-manager.key": late.key}}})
    status = ended(executor, late.key)
    assert (status.code, status.signal, status.oom) == (137, None, True)
    executor.submit(never)
    status = ended(executor, never.key)
    assert (status.code, status.signal, status.oom) == (137, 9, False)
    assert "Perhaps it was out of memory" in status.message
    executor.close()


def test_a_retry_runs_in_a_new_container(site: Site) -> None:
    job = site.enqueue(f"{BEGUN}; test $CONTAINER_MANAGER_ATTEMPT = 3 || exit 4; {DONE}", max_retries=3)
    with site.worker("--slots", "1"):
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 4, "error"), (2, 4, "error"), (3, 0, "")]
        assert site.runs() == ["begin 1", "begin 2", "begin 3", "end 3"]
        site.assert_clean()


def test_many_short_jobs_lose_no_exit_and_no_output(site: Site) -> None:
    jobs = [site.enqueue(f"echo {number}; exit {number % 3}") for number in range(24)]
    with site.worker("--slots", "12"):
        for number, job in enumerate(jobs):
            site.await_status(job, "completed" if number % 3 == 0 else "failed")
            assert (job.exit_code, job.attempt, output_of(job)) == (number % 3, 1, f"{number}\n".encode())
        site.assert_clean()


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_worker_that_ends_leaves_its_containers_and_the_next_worker_continues_reading_their_output(
    site: Site,
) -> None:
    go = site.gate()
    script = f"{BEGUN}; echo begun; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; read word < $EFFECTS/go; echo last; {DONE}"
    job = site.enqueue(script, max_retries=3)
    expected = b"begun\n" + b"".join(b"line %d\n" % number for number in range(2000)) + b"last\n"
    with site.worker("--slots", "2") as first:
        site.await_runs("begin 1")
        # Some of it is stored by now: it must not be there twice.
        eventually(lambda: JobLog.objects.filter(attempt__job=job).exists())
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=PATIENCE_SECONDS) == 0
    assert [container["State"] for container in site.containers()] == ["running"]
    assert not Worker.objects.exists()
    job.refresh_from_db()
    assert job.status == "running"
    with site.worker("--slots", "2"):
        eventually(lambda: Worker.objects.filter(pk=JobAttempt.objects.get(job=job).worker).exists())
        go.write_text("\n")
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        assert output_of(job) == expected
        assert site.runs() == ["begin 1", "end 1"]
        site.assert_clean()


def test_a_container_that_another_worker_has_just_started_is_taken_over(site: Site, tmp_path: Path) -> None:
    """The heir has seen the daemon's list before that container was there, and does not see the next one."""
    gate, other = site.gate(), site.gate("other")
    with (
        proxy(site.url, tmp_path) as way,
        site.worker("--slots", "3", "--queue", "default", url=way.url, lease_seconds=60.0) as heir,
    ):
        own = site.enqueue("read word < $EFFECTS/other")
        site.await_status(own, "running", attempts=False)
        eventually(lambda: JobAttempt.objects.get(job=own).handle)
        way.hold("GET /[^ ]*/containers/json", "request")
        way.await_held()
        with site.worker("--slots", "1", "--queue", "another", lease_seconds=60.0) as first:
            job = site.enqueue(f"{BEGUN}; read word < $EFFECTS/go; {DONE}", queue="another", max_retries=3)
            eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=PATIENCE_SECONDS) == 0
        heirs = Worker.objects.get(pid=heir.pid).pk
        eventually(lambda: JobAttempt.objects.filter(job=job, number=1, worker=heirs).exists())
        # In the turn in which it notes that this has started, it has looked at all that it runs.
        later = site.enqueue("true")
        eventually(lambda: JobAttempt.objects.filter(job=later).exclude(handle="").exists())
        assert JobAttempt.objects.get(job=job).finished_at is None
        way.release()
        gate.write_text("\n")
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        other.write_text("\n")
        for each in (own, later):
            site.await_status(each, "completed")
        site.assert_clean()


def test_64_megabytes_of_container_output_cost_a_worker_no_memory(site: Site) -> None:
    half = _OUTPUT_BYTES // 2
    with site.worker("--slots", "1", lease_seconds=30.0) as process:
        first = site.enqueue("echo first")
        site.await_status(first, "completed")
        observed = psutil.Process(process.pid)
        before = most = observed.memory_info().rss
        job = site.enqueue(f"head -c {half} /dev/zero >&2 & head -c {half} /dev/zero; wait; echo; echo end")
        while ContainerJob.objects.filter(pk=job.pk, status__in=["queued", "running"]).exists():
            most = max(most, observed.memory_info().rss)
            time.sleep(0.02)  # samples, taken from outside
        assert most - before < 30 * _MEBIBYTE
        site.await_status(job, "completed")
        rows = JobLog.objects.filter(attempt__job=job).order_by("sequence").values_list("stream", "data")
        pieces = [(stream, bytes(data)) for stream, data in rows]
        limit = AppSettings().log_limit_bytes
        kept = sum(len(data) for stream, data in pieces if stream != "system")
        assert 0.9 * limit < kept <= limit
        (note,) = (data.decode() for stream, data in pieces if stream == "system")
        assert note == f"[{_OUTPUT_BYTES + len('.end.') - kept} bytes of output dropped here: the log is limited]\n"
        assert [data for stream, data in pieces if stream == "stdout"][-1].endswith(b"end\n")
        site.assert_clean()


class TestSweep:
    def alien(self, site: Site, name: str, *, key: str, install: str, script: str = "sleep 600") -> str:
        """Start a container that no worker knows of."""
        labels = {"container-manager.install": install, "container-manager.key": key}
        container: dict[str, Any] = site.api.create_container(
            IMAGE,
            ["sh", "-c", script],
            name=name,
            labels=labels,
            host_config=site.api.create_host_config(init=True),
        )
        site.api.start(container["Id"])
        return str(container["Id"])

    def names(self, site: Site) -> set[str]:
        return {name.lstrip("/") for container in site.api.containers(all=True) for name in container["Names"]}

    @pytest.mark.shows("explanation/worker.md#a-worker-is-killed", "howto/docker.md#run-jobs-in-containers")
    def test_orphans_are_removed_and_containers_of_other_installations_are_not(self, site: Site) -> None:
        unknown = f"cm-{site.install}-{'0' * 32}-1"
        odd, foreign = f"odd-{site.install}", f"foreign-{site.install}"
        go = site.gate()
        with site.worker("--slots", "1", lease_seconds=60.0) as other:
            job = site.enqueue(f"{BEGUN}; read word < $EFFECTS/go; {DONE}")
            site.await_runs("begin 1")
            open_one = f"cm-{site.install}-{job.pk.hex}-1"
            self.alien(site, unknown, key=unknown, install=site.install)
            self.alien(site, odd, key="not one of ours", install=site.install)
            self.alien(site, foreign, key=unknown, install=f"other-{site.install}")
            try:
                # Each worker sweeps when it begins.
                with site.worker("--slots", "1", lease_seconds=60.0):
                    eventually(lambda: unknown not in self.names(site))
                    assert {open_one, foreign, odd} <= self.names(site)
                    later = site.enqueue("true")
                    site.await_status(later, "completed")
                    go.write_text("\n")
                    site.await_status(job, "completed")
                assert attempts_of(job) == [(1, 0, "")]
                assert other.poll() is None
                site.api.remove_container(odd, force=True)
                site.assert_clean()
            finally:
                site.api.remove_container(foreign, force=True)

    @pytest.mark.shows("howto/docker.md#look-into-the-container-of-a-failed-attempt")
    def test_a_failed_container_is_kept_for_a_while(self, docker_url: str, tmp_path: Path) -> None:
        site = Site(docker_url, tmp_path, keep_failed_seconds=3600)
        try:
            with site.worker("--slots", "2"):
                failing, well = site.enqueue("exit 3"), site.enqueue("true")
                site.await_status(failing, "failed")
                site.await_status(well, "completed")
                eventually(lambda: len(site.containers()) == 1)
                (kept,) = site.containers()
                assert kept["Labels"]["container-manager.key"].split("-")[-2] == failing.pk.hex
            unknown = f"cm-{site.install}-{'0' * 32}-1"
            self.alien(site, unknown, key=unknown, install=site.install)
            with site.worker("--slots", "2"):
                # When that is gone it has swept.
                eventually(lambda: unknown not in self.names(site))
                assert [container["Id"] for container in site.containers()] == [kept["Id"]]
            site.options["keep_failed_seconds"] = 0.0
            with site.worker("--slots", "2"):
                site.assert_clean()
        finally:
            site.clean_up()


@pytest.mark.parametrize("option", ["--drain", "--once"])
def test_a_draining_worker_says_that_no_daemon_answers_and_ends(site: Site, tmp_path: Path, option: str) -> None:
    first, second = site.enqueue("true"), site.enqueue("true")
    # Long enough for a worker to be told so before it gives up, on a busy machine too.
    settings = site.settings(url=f"unix://{tmp_path}/none.sock", UNREACHABLE_SECONDS=8)
    process = start_worker(option, "--slots", "1", log=site.log, CM_WORKER_SETTINGS=settings)
    try:
        assert process.wait(timeout=PATIENCE_SECONDS) == 1
    finally:
        process.kill()
        process.wait()
    said = site.log.read_text()
    assert "Executor docker does not answer" in said
    assert "No answer from executor docker: what is queued for it stays queued." in said
    assert "Traceback" not in said
    for job in (first, second):
        job.refresh_from_db()
    assert [(job.status, attempts_of(job)) for job in (first, second)] == [("queued", []), ("queued", [])]
