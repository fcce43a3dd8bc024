"""Output of pods as it is stored: all that a kubelet still has, once and in order, and what it has no more is said."""

from __future__ import annotations

import os
import re
import signal
from random import Random

import pytest

from container_manager.models import ContainerJob

from ..workers import eventually
from .api_proxy import ApiProxy
from .cluster_site import ClusterSite, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_MEBIBYTE = 1 << 20
_EVERYTHING = {"LOG_LIMIT_BYTES": 256 * _MEBIBYTE}
# To try others: CM_TEST_LOGS_SEED.
_SEED = 7


def lines(first: int, count: int, *, size: int = 1024) -> str:
    """Return a command that writes numbered lines at once."""
    rest = f'x = sprintf("%{size - 9}s", "")'
    return f"awk 'BEGIN {{ {rest}; for (i = {first}; i < {first + count}; i++) printf \"%07d %s\\n\", i, x }}'"


def numbers(output: bytes) -> list[int]:
    """Return the numbers of the lines, each of which must be whole."""
    found = output.splitlines()
    assert all(re.fullmatch(rb"\d{7} *", line) for line in found), [
        line for line in found if not re.fullmatch(rb"\d{7} *", line)
    ][:3]
    return [int(line[:7]) for line in found]


def system_log(job: ContainerJob) -> str:
    return output_of(job, "system").decode()


def await_rotation(site: ClusterSite, job: ContainerJob, past: int) -> None:
    """Return once the node no longer has the line of this number."""
    name = site.pod_of(job).metadata.name

    def first() -> int:
        kept = site.cluster.core.read_namespaced_pod_log(name, site.namespace, limit_bytes=100)
        return int(kept[:7] or 0)

    site.cluster.wait_for(lambda: first() > past)


def test_a_program_that_ends_at_once_loses_no_line(site: ClusterSite) -> None:
    with site.worker("--slots", "4"):
        jobs = [site.enqueue(f"echo {number}; echo and {number} >&2") for number in range(8)]
        for number, job in enumerate(jobs):
            site.await_status(job, "completed")
            assert sorted(output_of(job).splitlines()) == sorted([b"%d" % number, b"and %d" % number])
        site.assert_clean()


def test_output_of_every_byte_is_stored_as_it_is(site: ClusterSite) -> None:
    script = r"""printf "$(awk 'BEGIN { for (i = 0; i < 256; i++) printf "\\%03o", i }')"; head -c 20000 /dev/zero"""
    with site.worker("--slots", "1"):
        job = site.enqueue(script)
        site.await_status(job, "completed")
        site.assert_clean()
    assert output_of(job) == bytes(range(256)) + bytes(20000)


def test_a_line_of_a_mebibyte_is_stored_as_one(site: ClusterSite) -> None:
    with site.worker("--slots", "1", **_EVERYTHING):
        job = site.enqueue(f"echo before; head -c {_MEBIBYTE} /dev/zero | tr '\\0' x; echo; echo after")
        site.await_status(job, "completed")
        site.assert_clean()
    assert output_of(job) == b"before\n" + _MEBIBYTE * b"x" + b"\nafter\n"


@pytest.mark.shows("explanation/kubernetes.md#rotated-log")
def test_64_mebibytes_beyond_what_a_node_keeps_are_stored_once_and_in_order_or_the_gap_is_reported(
    site: ClusterSite,
) -> None:
    """Its nodes keep three files of 1 MiB."""
    count = 64 * 1024
    with site.worker("--slots", "1", **_EVERYTHING):
        job = site.enqueue(lines(0, count))
        site.await_status(job, "completed")
        site.assert_clean()
    found = numbers(output_of(job))
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, count - 1)
    print(f"{len(found)} of {count} lines were stored")  # noqa: T201  # which of both it was
    assert len(found) == count or "is missing here" in system_log(job)


@pytest.mark.shows("explanation/kubernetes.md#what-a-cluster-cannot-promise", "explanation/kubernetes.md#rotated-log")
@pytest.mark.shows("explanation/kubernetes.md#what-a-cluster-cannot-promise")
def test_a_gap_by_log_rotation_while_the_connection_was_cut_is_reported(site: ClusterSite, way: ApiProxy) -> None:
    go, end = site.gate("go"), site.gate("end")
    turn = f"{lines(10, 3000)}; sleep 4"
    script = (
        f"{lines(0, 10)}; read w < $EFFECTS/go; {turn}; {lines(3010, 3000)}; read w < $EFFECTS/end; {lines(9000, 5)}"
    )
    with site.worker("--slots", "1", kubeconfig=way.kubeconfig, **_EVERYTHING):
        job = site.enqueue(script)
        eventually(lambda: numbers(output_of(job))[-1:] == [9])
        way.cut(refuse_new=True)
        go.write_text("\n")
        await_rotation(site, job, 10)
        way.speak()
        end.write_text("\n")
        site.await_status(job, "completed")
        site.assert_clean()
    found = numbers(output_of(job))
    assert found == sorted(set(found))
    assert found[:10] == [*range(10)]
    assert found[-5:] == [*range(9000, 9005)]
    assert 10 not in found
    seconds = re.search(
        r"has rotated its log away before it was read: what came in ([0-9.]+) s is missing", system_log(job)
    )
    assert seconds is not None
    assert 0 < float(seconds[1]) < 120


def test_a_gap_by_log_rotation_while_the_worker_was_frozen_is_reported(site: ClusterSite) -> None:
    """The stream goes on where it was, then with the newest file: nothing in it says that there was another between."""
    go, end = site.gate("go"), site.gate("end")
    size = 16 * 1024
    floods = "; sleep 8; ".join(lines(10 + size * number, size) for number in range(3))
    script = f"{lines(0, 10)}; read w < $EFFECTS/go; {floods}; echo > $EFFECTS/over; read w < $EFFECTS/end; {lines(90000, 5)}"
    with site.worker("--slots", "1", lease_seconds=300.0, **_EVERYTHING) as process:
        job = site.enqueue(script)
        eventually(lambda: numbers(output_of(job))[-1:] == [9])
        process.send_signal(signal.SIGSTOP)
        go.write_text("\n")
        eventually((site.effects() / "over").exists)
        process.send_signal(signal.SIGCONT)
        end.write_text("\n")
        site.await_status(job, "completed")
        site.assert_clean()
    found = numbers(output_of(job))
    assert found == sorted(set(found))
    is_cut = "just before the program ended" in system_log(job)
    assert (found[0], is_cut or found[-5:] == [*range(90000, 90005)]) == (0, True), system_log(job)
    print(f"{len(found)} of {15 + 3 * size} lines were stored")  # noqa: T201
    # By the stream itself, or by the next one where a time-out has ended it.
    said = ("may have been rotated away", "is missing here", "may be missing here")
    assert len(found) == 15 + 3 * size or any(words in system_log(job) for words in said), system_log(job)


def test_a_worker_that_adopts_a_job_reports_where_the_output_kept_by_its_node_begins(site: ClusterSite) -> None:
    go, end = site.gate("go"), site.gate("end")
    script = (
        f"{lines(0, 10)}; read w < $EFFECTS/go; {lines(10, 3000)}; sleep 5; {lines(3010, 3000)}; "
        f"read w < $EFFECTS/end; {lines(9000, 5)}"
    )
    with site.worker("--slots", "1", **_EVERYTHING) as process:
        job = site.enqueue(script)
        eventually(lambda: numbers(output_of(job))[-1:] == [9])
        site.kill(process)
    go.write_text("\n")
    await_rotation(site, job, 10)
    with site.worker("--slots", "1", **_EVERYTHING):
        end.write_text("\n")
        site.await_status(job, "completed")
        site.assert_clean()
    found = numbers(output_of(job))
    assert found == sorted(set(found))
    assert found[-5:] == [*range(9000, 9005)]
    assert "The output that the kubelet kept begins" in system_log(job)


@pytest.mark.shows("explanation/kubernetes.md#rotated-log", "explanation/kubernetes.md#cut-log-stream")
def test_a_log_stream_that_is_cut_repeatedly_loses_and_repeats_no_line(site: ClusterSite, way: ApiProxy) -> None:
    seed = int(os.environ.get("CM_TEST_LOGS_SEED", _SEED))
    random, count, cuts = Random(seed), 6000, 12  # noqa: S311
    # Many lines have the same second, and some are written in a burst.
    script = f"i=0; while [ $i -lt {count} ]; do printf '%07d\\n%07d\\n' $i $((i+1)); i=$((i+2)); done; {lines(count, 500, size=30)}"
    with site.worker("--slots", "1", kubeconfig=way.kubeconfig, **_EVERYTHING):
        job = site.enqueue(f"{script.replace('done', '[ $((i % 200)) != 0 ] || sleep 0.1; done', 1)}")
        at = sorted(random.sample(range(count), cuts))
        for number in at:
            eventually(lambda number=number: len(output_of(job)) >= 8 * number or _is_over(job))
            way.cut()
        site.await_status(job, "completed")
        site.assert_clean()
    found = numbers(output_of(job))
    assert found == [*range(count + 500)], f"CM_TEST_LOGS_SEED={seed}"
    assert "missing" not in system_log(job)
    assert len(way.asked("GET .*/log")) > 3


def _is_over(job: ContainerJob) -> bool:
    job.refresh_from_db()
    return job.status == "completed"


def test_output_of_more_jobs_than_there_are_streams_is_stored_while_they_run(site: ClusterSite, way: ApiProxy) -> None:
    """Forty jobs that write now and then, and 32 streams at most: each gets its turn."""
    script = "echo begun; while [ ! -e $EFFECTS/go ]; do sleep 0.5; done; echo done"
    with site.worker("--slots", "40", kubeconfig=way.kubeconfig):
        jobs = [site.enqueue(script) for _ in range(40)]
        for job in jobs:
            eventually(lambda job=job: output_of(job) == b"begun\n")
        assert way.connections < 60
        (site.effects() / "go").touch()
        for job in jobs:
            site.await_status(job, "completed")
            assert (output_of(job), attempts_of(job)) == (b"begun\ndone\n", [(1, 0, "")])
        site.assert_clean()
