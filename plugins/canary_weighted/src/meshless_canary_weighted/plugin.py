"""The plugin: registration, options, and the selector that puts wheel and rendezvous together.

A client's wishes come first: a pinned version if it can be chosen, then the version its sticky key belongs to. Everybody else
is dealt out by a wheel per service. State is bounded: a wheel per recently used service.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence

import attrs

from meshless_canary_weighted.rendezvous import rendezvous
from meshless_canary_weighted.wheel import Wheel
from meshless_core import CanaryRequest, CanarySelectorSpec, VersionShare, hookimpl

__all__ = ["Options", "WeightedSelector", "meshless_register_canary_selector"]


@attrs.frozen
class Options:
    """Settings of `canary_weighted`.

    Attributes:
        seed: start of the random phases; None takes them from the operating system.
        max_services: services remembered.
    """

    seed: int | None = attrs.field(
        default=None,
        metadata={
            "doc": "integer or null; makes the order of versions reproducible, for tests and simulations. Leave it null on real"
            " nodes: agents with the same seed walk in step and no longer add up to the declared shares"
        },
    )
    max_services: int = attrs.field(
        default=10_000,
        validator=attrs.validators.ge(1),
        metadata={
            "doc": "services, at least 1; how many services' positions are remembered, about 500 bytes each. The least"
            " recently used is forgotten first and starts at a new random point when it comes back"
        },
    )


class _Dealer:
    """A service's wheel, and the shares it was made for."""

    __slots__ = ("shares", "versions", "weights", "wheel")

    def __init__(self, shares: Sequence[VersionShare], rng: random.Random) -> None:
        self.shares = shares
        self.versions = [share.version for share in shares]
        self.weights = [share.weight for share in shares]
        self.wheel = Wheel(self.weights, rng.randrange)

    def fits(self, shares: Sequence[VersionShare]) -> bool:
        """Whether versions and weights are the same; how many pods each has does not matter, the phase survives scaling."""
        return [share.version for share in shares] == self.versions and [share.weight for share in shares] == self.weights


class WeightedSelector:
    """Chooses versions; satisfies `CanarySelector`."""

    def __init__(self, options: Options) -> None:
        self._max_services = options.max_services
        self._rng = random.Random(options.seed)  # noqa: S311 - spreads phases; nothing secret depends on it
        self._dealers: OrderedDict[tuple[str, str, str], _Dealer] = OrderedDict()

    def choose(self, request: CanaryRequest) -> str | None:
        """Return the version for one new connection."""
        shares = request.shares
        if len(shares) == 1:
            return shares[0].version
        if request.version_pin is not None:
            for share in shares:
                if share.version == request.version_pin:
                    return share.version
        if request.sticky_key is not None:
            candidates = [(share.version, share.weight) for share in shares]
            return rendezvous(str(request.target).encode(), request.sticky_key, candidates)
        target = request.target
        key = (target.service, target.meshlet, target.namespace)
        dealer = self._dealers.get(key)
        if dealer is None or dealer.shares is not shares:
            dealer = self._refit(key, dealer, shares)
        self._dealers.move_to_end(key)
        return dealer.versions[dealer.wheel.next()]

    def _refit(self, key: tuple[str, str, str], dealer: _Dealer | None, shares: Sequence[VersionShare]) -> _Dealer:
        if dealer is not None and dealer.fits(shares):
            dealer.shares = shares
            return dealer
        dealer = self._dealers[key] = _Dealer(shares, self._rng)
        if len(self._dealers) > self._max_services:
            self._dealers.popitem(last=False)
        return dealer


@hookimpl
def meshless_register_canary_selector() -> CanarySelectorSpec:
    """Register the selector."""
    return CanarySelectorSpec(api=1, options=Options, create=WeightedSelector)
