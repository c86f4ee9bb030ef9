"""The endpoints a connection tries, one after the other, until one answers.

Before the reply to the client no application byte has moved, so another endpoint can always be tried. The order:

    1. the chosen version's endpoints, in the balancer's order
    2. the other versions' endpoints, if *none* of the chosen version could be connected: a version nobody can reach is
       like a version without ready pods, its share goes to the others in proportion to their weights

A version that is known to be down (every endpoint failed again after having returned from ejection) changes places: the
others first, its own last, so that its share of the clients does not wait for the same time-out again and again.

A limit does not spill: an endpoint at `maxConn` is alive, and its version has had its share. Otherwise a full canary would
push its load on everybody else, or theirs on it. The caller says so with `Attempts.limited`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs

from meshless_core.routing.balancer import Balancer
from meshless_core.routing.table import Route
from meshless_core.types import Endpoint

__all__ = ["Attempt", "Attempts", "attempts", "spill_order"]


@attrs.frozen
class Attempt:
    """One endpoint to try.

    Attributes:
        endpoint: the endpoint; `endpoint.version` is the version the connection really gets.
        spilled: whether it is of another version than the one chosen.
    """

    endpoint: Endpoint
    spilled: bool


class Attempts(Iterator[Attempt]):
    """Iterator over attempts, fed with what became of them. Made by `attempts`, for one connection."""

    __slots__ = ("_limited", "_source")

    _source: Iterator[Attempt]

    def __init__(self, route: Route, version: str | None, balancer: Balancer, now: float) -> None:
        self._limited = False
        group = route.groups[version]
        if len(route.groups) == 1 and len(group) == 1:  # nothing to order, and nothing to spill to
            self._source = iter((Attempt((group.local or group.remote)[0], spilled=False),))
        else:
            self._source = self._run(route, version, balancer, now)

    def __next__(self) -> Attempt:
        return next(self._source)

    @property
    def was_limited(self) -> bool:
        """Whether an endpoint refused because of a limit: the reply is then CONNECTION_LIMIT if nobody else took it."""
        return self._limited

    def limited(self) -> None:
        """The endpoint just tried is alive but at a limit: its version's other endpoints may follow, other versions not."""
        self._limited = True

    def _run(self, route: Route, version: str | None, balancer: Balancer, now: float) -> Iterator[Attempt]:
        group = route.groups[version]
        if len(route.groups) == 1 or not balancer.is_down(group, now):
            for endpoint in balancer.order(group, now):
                yield Attempt(endpoint, spilled=False)
            down = False
        else:
            down = True
        others = {share.version: share.weight for share in route.shares if share.version != version}
        for other in spill_order(others, balancer.rng):
            if self._limited:
                break
            for endpoint in balancer.order(route.groups[other], now):
                yield Attempt(endpoint, spilled=True)
        if down:
            for endpoint in balancer.order(group, now):
                yield Attempt(endpoint, spilled=False)


def attempts(route: Route, version: str | None, balancer: Balancer, now: float) -> Attempts:
    """What to try for one connection.

    Args:
        route: the route the version was chosen from (after `Route.for_wishes`).
        version: one of the versions in `route.shares`, as the canary selector chose it.
        balancer: the service's balancer.
        now: seconds, on the balancer's clock.

    Raises:
        KeyError: `version` is not among the route's shares; check a selector's answer before.
    """
    if version not in route.groups:
        raise KeyError(version)
    return Attempts(route, version, balancer, now)


def spill_order(weights: Mapping[str | None, int], rng: Callable[[], float]) -> list[str | None]:
    """Put versions in a random order in which each comes first as often as its weight says.

    Weighted sampling without replacement (Efraimidis and Spirakis, 2006): by `random ** (1 / weight)`, greatest first.

    Args:
        weights: integer weight >= 1 by version.
        rng: returns a float in [0, 1).
    """
    if len(weights) < 2:
        return list(weights)
    draws = {version: rng() ** (1.0 / weight) for version, weight in weights.items()}
    return sorted(draws, key=draws.__getitem__, reverse=True)
