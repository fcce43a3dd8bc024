"""One worker process: ``python -m benchmarks.queue.work NAME``. Says when it is ready, waits for a line, works."""

from __future__ import annotations

import os
import sys
import time

import django


def main(name: str) -> None:
    django.setup()
    from .contenders import contenders

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    contenders()[name].work(os.environ["BENCH_SOCKET"], ready)
    # Linux's monotonic clock is one for all processes.
    print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
