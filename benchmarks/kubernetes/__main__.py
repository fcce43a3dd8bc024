"""Measure the Kubernetes executor: ``python -m benchmarks.kubernetes [--quick] [--json FILE]``.

On a cluster of two nodes and a PostgreSQL of its own. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import django

from tests.kubernetes import cluster, programs
from tests.kubernetes.cluster_under_test import ClusterUnderTest
from tests.kubernetes.deployment import manifest
from tests.servers import end_when_told

from ..queue.figures import Figure, table
from ..queue.server import server

_PARTS = ("throughput", "watching")


class _Load(NamedTuple):
    """``count`` Jobs, each of which takes as long as ``said``: ``at_once`` by so many workers, and by a bare client."""

    command: str
    said: str
    at_once: int
    count: int
    workers: int


# Some take all that the processors of the cluster have; in the last the cluster waits for its jobs. A turn is done in
# less than a minute, since it begins just after the kubelets have cleaned up.
_LOADS = (
    _Load("true", "no time", at_once=32, count=128, workers=1),
    _Load("true", "no time", at_once=32, count=128, workers=4),
    _Load("sleep 10", "10 s", at_once=12, count=36, workers=4),
)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.kubernetes", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    arguments.add_argument("--only", choices=_PARTS, help="measure only this")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = arguments.parse_args()
    if obstacle := "" if find_spec("kubernetes") else "the Python package kubernetes is not installed":
        print(f"Kubernetes: not measured, since {obstacle}.")
        return 0
    under_test = ClusterUnderTest.found()
    if under_test is None or under_test.control is None:
        if obstacle := cluster.obstacle():
            print(f"Kubernetes: not measured, since {obstacle}.")
            return 0
        end_when_told()
        programs.build()
        return cluster.run_beside_cluster([sys.executable, "-m", "benchmarks.kubernetes", *sys.argv[1:]])
    end_when_told()
    parts = [options.only] if options.only else _PARTS
    with server() as folder, under_test.namespace() as namespace, tempfile.TemporaryDirectory() as scratch:
        # The clients are as little trusted as in production.
        kubeconfig = Path(scratch) / "kubeconfig"
        kubeconfig.write_text(under_test.kubeconfig_of(namespace, manifest("Role")["rules"]))
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.kubernetes.settings"
        os.environ["BENCH_SOCKET"], os.environ["BENCH_NAMESPACE"] = folder, namespace
        os.environ["BENCH_KUBECONFIG"] = str(kubeconfig)
        django.setup()
        figures = list(_measure(under_test, kubeconfig, namespace, parts=parts, quick=options.quick))
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _measure(
    under_test: ClusterUnderTest, kubeconfig: Path, namespace: str, *, parts: Sequence[str], quick: bool
) -> Iterator[Figure]:
    from django.core.management import call_command

    from .bare import BareClient
    from .throughput import Contest, measure_throughput
    from .watching import measure_watching

    call_command("migrate", verbosity=0)

    def figures_of(contest: Contest, name: str) -> Iterator[Figure]:
        for who, turns in (("ours", contest.ours), ("a bare client", contest.bare)):
            yield Figure(name=f"{name}: {who}", value=statistics.median(turn.rate for turn in turns), unit="jobs/s")
            own = statistics.median(turn.requests.own for turn in turns)
            yield Figure(name=f"{name}: requests of {who}", value=own, unit="a job")
            everybody = statistics.median(turn.requests.everybody for turn in turns)
            yield Figure(name=f"{name}: requests of all while {who} is measured", value=everybody, unit="a job")
        cpu = statistics.median(turn.cpu_seconds for turn in contest.ours)
        yield Figure(name=f"{name}: CPU of the workers", value=cpu * 1e3, unit="ms a job")
        yield Figure(name=f"{name}: ours / a bare client", value=contest.ratio, unit="times", at_least=0.9)

    if "throughput" in parts:
        bare = BareClient(kubeconfig, namespace, most_threads=max(each.at_once for each in _LOADS))
        for each in _LOADS:
            count, rounds = (each.at_once, 1) if quick else (each.count, 2)
            found = measure_throughput(
                under_test,
                namespace,
                bare,
                command=each.command,
                workers=each.workers,
                at_once=each.at_once,
                count=count,
                rounds=rounds,
            )
            said = "1 worker" if each.workers == 1 else f"{each.workers} workers"
            yield from figures_of(found, f"{count} Jobs of {each.said}, {each.at_once} at once, {said}")
    if "watching" in parts:
        count, seconds = (20, 10.0) if quick else (100, 30.0)
        watching = measure_watching(under_test.client, count, seconds)
        name = f"watching {count} pods"
        yield Figure(name=f"{name}: CPU of the worker", value=watching.share * 100, unit="% of a core", at_most=5.0)
        yield Figure(name=f"{name}: requests", value=watching.requests, unit="a second")
        yield Figure(name=f"{name}: memory of the worker", value=watching.memory / 2**20, unit="MiB")


if __name__ == "__main__":
    sys.exit(main())
