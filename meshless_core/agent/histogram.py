"""A histogram in Prometheus' sense: counts per bucket and a sum. Plain state: it reads no clock and knows no labels."""

from __future__ import annotations

import bisect

import attrs

__all__ = ["Histogram"]


@attrs.define(eq=False)
class Histogram:
    """Observations of one series.

    Attributes:
        bounds: upper bounds of the buckets, inclusive, rising; one bucket more takes what is above all of them.
        counts: observations per bucket, not added up.
        total: sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def make(cls, bounds: tuple[float, ...]) -> Histogram:
        """An empty one."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Label `le` and number of observations up to it, as the exposition wants them."""
        result, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result
