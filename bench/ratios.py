"""From samples to ratios. Pure arithmetic: a ratio is taken within one round, because only what ran side by side compares."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import attrs

from bench.works import Sample

__all__ = ["Spread", "added_latency", "by_round", "ratios", "spread"]


@attrs.frozen
class Spread:
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Iterable[float]) -> Spread | None:
    """Summarise the values of the rounds; None if there are none."""
    listed = sorted(values)
    if not listed:
        return None
    return Spread(statistics.median(listed), listed[0], listed[-1], len(listed))


def by_round(samples: Iterable[Sample], path: str, work: str, value: Callable[[Sample], float | None]) -> dict[int, float]:
    """One value per round for a path and a work, rounds without it left out."""
    found = {}
    for sample in samples:
        if sample.path == path and sample.work == work:
            number = value(sample)
            if number is not None:
                found[sample.round] = number
    return found


def ratios(mine: dict[int, float], base: dict[int, float]) -> Spread | None:
    """`mine` divided by `base`, per round, of the rounds both have and where `base` is not 0."""
    return spread(mine[number] / base[number] for number in mine.keys() & base.keys() if base[number] != 0)


def added_latency(mine: dict[int, float], direct: dict[int, float]) -> Spread | None:
    """What a hop adds: `mine` minus `direct`, per round."""
    return spread(mine[number] - direct[number] for number in mine.keys() & direct.keys())
