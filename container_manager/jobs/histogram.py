"""Histograms of durations with fixed buckets: they can be added up over any span, and percentiles be read off them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

# The upper bounds of all buckets but the last, which has none. Each is two to three times the one before it, for days
# four times: that is how exact a percentile is.
BUCKET_SECONDS: Sequence[float] = (
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0),
)
BUCKETS = len(BUCKET_SECONDS) + 1


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a duration; a bucket holds its upper bound."""
    return bisect_left(BUCKET_SECONDS, seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many durations are in each bucket, and their sum in seconds."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    def percentile(self, percent: float) -> float | None:
        """Return the seconds that this percentage of the durations do not exceed; None if there are no durations.

        Within a bucket it is interpolated, as if its durations were spread evenly. Above the highest bound nothing is
        known, so what lies there counts as that bound.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"A percentile is from 0 to 100, not {percent}.")
        rank, below = self.count * percent / 100, 0
        if not self.count:
            return None
        for number, count in enumerate(self.counts[:-1]):
            if count and below + count >= rank:
                lower = BUCKET_SECONDS[number - 1] if number else 0.0
                return lower + (BUCKET_SECONDS[number] - lower) * max(0.0, rank - below) / count
            below += count
        return BUCKET_SECONDS[-1]


EMPTY = Histogram()
