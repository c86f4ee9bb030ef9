"""Exact shares, evenly spread, from integers alone.

Why not a random number per connection: 300 connections at 1 % would be anything from 0 to 8, and an operator who watches a
canary cannot tell chance from a fault. A wheel gives 3.

For two versions with weights a and b this is Bresenham's line: of each a + b connections in a row b go to the second version,
as evenly spaced as integers allow. More versions nest: the heaviest against the sum of the rest, then the next heaviest within
the rest, and so on, each stage a line of its own that advances only when it is asked. A stage is off by less than one
connection, and passes on to the next only its part of that.

    stage  weights      credit += rest; if credit >= total: credit -= total, go on to the next stage; else this version

Each stage starts at a uniformly random point of its line, so the *first* connection already gets a version with exactly the
probability its share says, and so does every later one. A thousand agents that see one connection each add up to the declared
shares instead of all beginning with the same version.

This module knows nothing of Meshless, and has no clock and no randomness of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Wheel"]


class Wheel:
    """Hands out positions 0..n-1 in proportion to weights."""

    __slots__ = ("_last", "_stages")

    def __init__(self, weights: Sequence[int], randrange: Callable[[int], int]) -> None:
        """Start a wheel at a random point.

        Args:
            weights: integer weight >= 0 per position, at least one of them positive.
            randrange: returns a uniformly random integer in [0, n) for n.

        Raises:
            ValueError: no weight is positive, or one is negative.
        """
        if any(weight < 0 for weight in weights) or not any(weights):
            raise ValueError(f"weights {list(weights)} must be integers >= 0 with at least one above 0")
        heaviest_first = sorted((i for i, weight in enumerate(weights) if weight), key=lambda i: -weights[i])
        self._last = heaviest_first.pop()
        self._stages: list[list[int]] = []
        total = sum(weights)
        for position in heaviest_first:
            rest = total - weights[position]
            self._stages.append([randrange(total), rest, total, position])
            total = rest

    def next(self) -> int:
        """The next position."""
        for stage in self._stages:
            credit = stage[0] + stage[1]
            if credit < stage[2]:
                stage[0] = credit
                return stage[3]
            stage[0] = credit - stage[2]
        return self._last
