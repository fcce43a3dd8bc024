"""Watches that are cut, fall silent, are refused or bring nonsense: the next list tells the truth, and soon."""

from __future__ import annotations

import json
import re
import threading
import time

import pytest

from container_manager.executors.base import Executor, Phase, Unavailable
from container_manager.testing.conformance import ended, observation, output, submitted, text, wait_until

from .api_proxy import ApiProxy, status_body
from .kubernetes_harness import KubernetesHarness, await_lists, is_away

pytestmark = pytest.mark.without_database
_WATCH = r"GET .*/(jobs|pods)\?.*watch=true"
_LIST = r"GET .*/(jobs|pods)\?(?!.*watch=true)"
# A silent watch is given up after the seconds that it was asked for and three more; then comes a list.
_SOON_SECONDS = 15.0


@pytest.fixture
def proxied(harness: KubernetesHarness, way: ApiProxy) -> Executor:
    """An executor behind a proxy, with a watch of both kinds."""
    executor = harness.executor(kubeconfig=str(way.kubeconfig))
    executor.observe()
    wait_until(executor, lambda: len(way.asked(_WATCH)) >= 2)
    return executor


def gated(harness: KubernetesHarness, executor: Executor) -> str:
    """Run a program that ends when `go` does; return its key once it runs."""
    spec = harness.spec("touch $EFFECTS/ready; while ! test -e $EFFECTS/go; do sleep 0.1; done; exit 7")
    submitted(executor, spec)
    wait_until(executor, (harness.effects() / "ready").exists)
    return spec.key


def go(harness: KubernetesHarness) -> None:
    (harness.effects() / "go").touch()


def test_a_watch_that_is_cut_hides_no_exit(harness: KubernetesHarness, way: ApiProxy, proxied: Executor) -> None:
    key = gated(harness, proxied)
    for _ in range(3):
        way.cut()
    go(harness)
    way.cut()
    await_lists(proxied)
    assert ended(proxied, key).code == 7


@pytest.mark.shows("explanation/kubernetes.md#when-something-is-away", "explanation/kubernetes.md#half-open-watch")
@pytest.mark.shows("explanation/kubernetes.md#when-something-is-away")
def test_a_half_open_watch_hides_no_exit(harness: KubernetesHarness, way: ApiProxy, proxied: Executor) -> None:
    """Its connection stays, and brings nothing any more, not even its end."""
    key = gated(harness, proxied)
    way.fall_silent()
    go(harness)
    began = time.monotonic()
    assert ended(proxied, key).code == 7
    assert time.monotonic() - began < _SOON_SECONDS


@pytest.mark.shows("explanation/kubernetes.md#half-open-watch")
def test_a_half_open_watch_does_not_keep_a_launch_from_being_seen(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor
) -> None:
    way.fall_silent()
    spec = harness.spec("exit 7")
    began = time.monotonic()
    submitted(proxied, spec)
    assert ended(proxied, spec.key).code == 7
    assert time.monotonic() - began < 2 * _SOON_SECONDS


@pytest.mark.shows("explanation/kubernetes.md#expired-watch")
def test_an_expired_resource_version_leads_to_a_new_list(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor
) -> None:
    """Asked for a version that is too old, the API server itself answers with 410, here always."""
    key = gated(harness, proxied)
    way.change(_WATCH, lambda data: re.sub(rb"resourceVersion=\d+", b"resourceVersion=1", data))
    way.cut()
    before, began = len(way.asked(_LIST)), time.monotonic()
    wait_until(proxied, lambda: len(way.asked(_WATCH)) > 8)
    go(harness)
    assert ended(proxied, key).code == 7
    # Nor does it ask in a circle.
    assert len(way.asked(_LIST)) - before <= 6 * (time.monotonic() - began) + 6


@pytest.mark.parametrize("status", [410, 429, 500, 403])
def test_a_watch_that_is_refused_is_replaced_by_lists(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor, status: int
) -> None:
    key = gated(harness, proxied)
    way.answer(_WATCH, status, status_body(status, "Expired", "no watch here"))
    way.cut()
    before, began = len(way.asked(_LIST)), time.monotonic()
    wait_until(proxied, lambda: len(way.asked(_LIST)) - before >= 6)
    go(harness)
    assert ended(proxied, key).code == 7
    assert len(way.asked(_LIST)) - before <= 6 * (time.monotonic() - began) + 6


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no JSON\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": {}}}\n{"type":',
        b"\xff",
    ],
    ids=["nothing", "no JSON", "no object", "no metadata", "half an object", "no text"],
)
def test_a_watch_that_ends_at_once_or_is_malformed_hides_no_exit_and_floods_no_server(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor, said: bytes
) -> None:
    key = gated(harness, proxied)
    way.answer(_WATCH, 200, said)
    way.cut()
    before, began = len(way.asked(_LIST)), time.monotonic()
    wait_until(proxied, lambda: len(way.asked(_LIST)) - before >= 6)
    go(harness)
    assert ended(proxied, key).code == 7
    assert len(way.asked(_LIST)) - before <= 6 * (time.monotonic() - began) + 6


@pytest.mark.shows("explanation/kubernetes.md#expired-watch")
def test_an_error_event_of_a_watch_leads_to_a_new_list(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor
) -> None:
    key = gated(harness, proxied)
    error = json.loads(status_body(410, "Expired", "too old resource version: 1 (2)"))
    way.answer(_WATCH, 200, json.dumps({"type": "ERROR", "object": error}).encode() + b"\n")
    way.cut()
    go(harness)
    await_lists(proxied)
    assert ended(proxied, key).code == 7


def test_a_malformed_list_decides_no_outcome(harness: KubernetesHarness, way: ApiProxy, proxied: Executor) -> None:
    """A proxy's own page with status 200 says nothing about attempts."""
    key = gated(harness, proxied)
    way.answer(_LIST, 200, b"<html>Please log in</html>")
    way.cut()
    wait_until(proxied, lambda: is_away(proxied))
    way.be_faithful()
    await_lists(proxied)
    found = observation(proxied, key)
    assert found is not None
    assert found.phase is Phase.RUNNING
    go(harness)
    assert ended(proxied, key).code == 7


def test_a_list_without_object_fields_decides_no_outcome(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor
) -> None:
    """An empty JSON object is no list of nothing."""
    key = gated(harness, proxied)
    way.answer(_LIST, 200, b"{}", times=4)
    way.cut()
    before = len(way.asked(_LIST))
    wait_until(proxied, lambda: len(way.asked(_LIST)) - before > 6)
    await_lists(proxied)
    found = observation(proxied, key)
    assert found is not None
    assert found.phase is Phase.RUNNING
    go(harness)
    assert ended(proxied, key).code == 7


def test_a_log_that_is_cut_repeatedly_is_read_completely(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor
) -> None:
    lines = 200
    spec = harness.spec(f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep 0.02; done")
    submitted(proxied, spec)
    is_done = threading.Event()

    def cut_now_and_then() -> None:
        # From outside, whatever it is at.
        while not is_done.wait(0.5):
            way.cut()

    cutting = threading.Thread(target=cut_now_and_then)
    cutting.start()
    try:
        wait_until(proxied, lambda: _has_ended(proxied, spec.key))
    finally:
        is_done.set()
        cutting.join()
    assert text(output(proxied, spec.key)) == b"".join(b"line %d\n" % number for number in range(lines))


def _has_ended(executor: Executor, key: str) -> bool:
    try:
        found = observation(executor, key)
    except Unavailable:
        return False
    return found is not None and found.phase is Phase.EXITED


def test_many_attempts_need_few_connections_and_few_requests(
    harness: KubernetesHarness, way: ApiProxy, proxied: Executor
) -> None:
    """Two watches, a bounded number of logs, and what is being asked just now."""
    specs = [harness.spec("while ! test -e $EFFECTS/go; do sleep 0.5; done; echo said") for _ in range(12)]
    for spec in specs:
        submitted(proxied, spec)
    before, began = len(way.requests), time.monotonic()
    watched = len(way.asked(_WATCH))
    # Some lists later.
    wait_until(proxied, lambda: len(way.asked(_WATCH)) >= watched + 4)
    assert way.connections <= 2 + len(specs) + 8
    # A list and a watch of two kinds each five seconds.
    assert len(way.requests) - before <= 2 * (time.monotonic() - began) + 20
    go(harness)
    for spec in specs:
        assert ended(proxied, spec.key).succeeded
        assert text(output(proxied, spec.key)) == b"said\n"
    for spec in specs:
        proxied.remove(spec.key)


def test_an_idle_executor_sends_few_requests(harness: KubernetesHarness, way: ApiProxy, proxied: Executor) -> None:
    watched, before, began = len(way.asked(_WATCH)), len(way.requests), time.monotonic()
    wait_until(proxied, lambda: len(way.asked(_WATCH)) >= watched + 4)
    assert len(way.requests) - before <= (time.monotonic() - began) + 8
    assert way.connections <= 4
