"""Run commands beside each other, and print what each has said once all have ended: ``python -m tests.lanes A --- B``.

Exits with the first exit code that is not 0. Neither command reads the terminal; an interrupt reaches both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from typing import IO

_BETWEEN = "---"


def main(words: Sequence[str]) -> int:
    commands = [list(group) for is_between, group in groupby(words, _BETWEEN.__eq__) if not is_between]
    lanes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    for command in commands:
        said = tempfile.TemporaryFile()  # noqa: SIM115  # read when the command has ended
        lanes.append((subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said), said))
    print(f"{len(lanes)} runs beside each other; what they say comes when they have ended.", flush=True)  # noqa: T201
    codes = []
    for lane, said in lanes:
        codes.append(lane.wait())
        said.seek(0)
        sys.stdout.buffer.write(said.read())
        sys.stdout.buffer.flush()
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
