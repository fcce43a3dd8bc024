"""The options of one worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker claims, and when it ends by itself.

    ``slots``: how many attempts at once. ``queues``: None for all. ``drain``: end when nothing runs and nothing is due,
    except for engines that are given up. ``max_jobs``: end after this many claims. ``only``: run this one job; end if
    its engine is given up. ``inline``: ask the database in the caller's thread and on its connection only, and call
    receivers of signals there, as within a transaction. ``alive_file``: touched at each turn of the loop, at least
    three times within LEASE_SECONDS; removed at the end.
    """

    slots: int = 4
    queues: tuple[str, ...] | None = None
    drain: bool = False
    max_jobs: int | None = None
    only: UUID | None = None
    inline: bool = False
    using: str = "default"
    alive_file: Path | None = None
