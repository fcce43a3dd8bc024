"""What a transition costs, beside the raw UPDATE and beside peers: ``python -m benchmarks.transitions``.

Prints one line per figure and ends with 1 where a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .figures import Figure, table
from .server import NoServer, postgresql

_DATABASES = ("sqlite", "postgresql")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transitions", description=__doc__)
    parser.add_argument("--database", choices=_DATABASES, help="measure only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    figures: list[Figure] = []
    for database in [options.database] if options.database else _DATABASES:
        try:
            figures += measure(database)
        except NoServer as error:
            print(f"Not measured: {error}.", file=sys.stderr)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def measure(database: str) -> list[Figure]:
    """Measure one database in a process of its own, since Django's settings are for one.

    Raises NoServer.
    """
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        if database == "postgresql":
            with postgresql(Path(folder)) as address:
                return _contest(CM_TEST_DATABASE=database, CM_TEST_SOCKET=str(address))
        return _contest(CM_TEST_DATABASE=database, CM_TEST_FOLDER=folder)


def _contest(**environment: str) -> list[Figure]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contest"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "benchmarks.settings", **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Figure(**figure) for figure in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
