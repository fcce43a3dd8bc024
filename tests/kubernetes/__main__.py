"""Run a command with a Kubernetes cluster beside it: ``python -m tests.kubernetes -- pytest tests/kubernetes``.

The cluster has two nodes on this machine, and is started for the command: CM_TEST_KUBERNETES is the path of its
administrator's kubeconfig, CM_TEST_KUBERNETES_FOLDER the folder of all its files. It nests with a database server:
``python -m tests.servers postgresql -- python -m tests.kubernetes -- pytest``. Kubernetes' own programs are built if
they are not there yet; ``python -m tests.kubernetes build`` does only that. ``python -m tests.kubernetes join --
COMMAND`` runs a command beside the cluster that another one has started.
"""

from __future__ import annotations

import sys

from ..servers import end_when_told
from . import cluster, programs


def main(arguments: list[str]) -> int:
    if arguments == ["build"]:
        programs.build()
        return 0
    joins = arguments[:1] == ["join"]
    command = arguments[1:] if joins else arguments
    if len(command) < 2 or command[0] != "--":
        sys.exit("usage: python -m tests.kubernetes build | [join] -- COMMAND …")
    if joins:
        cluster.join(command[1:])
    if why := cluster.obstacle():
        sys.exit(f"No Kubernetes for tests here: {why}.")
    end_when_told()
    programs.build()
    return cluster.run_beside_cluster(command[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
