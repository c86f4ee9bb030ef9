"""Which endpoint of a version to try, and which to try next.

Endpoints on the same node come first, then the rest. Among equals the better of two random ones is taken, by

    cost = recent connect latency * (open connections + 1)

which needs no scan, spreads load almost as well as picking the least loaded, and does not send a herd to one endpoint when
many agents learn the same thing at once (Mitzenmacher, "The Power of Two Choices", 2001). The latency is an exponentially
weighted moving average in time; it fades while an endpoint is not used, so that one slow answer is not held against it for
ever. Latencies under a floor count as equal: their difference is noise.

An endpoint that cannot be connected is ejected, for a time that doubles with every failure after a return:

    state       becomes     when
    available   ejected     on_failed; returns after base * 2^(failures - 1) seconds, at most `ejection_max`
    ejected     available   on_connected, on_alive
    ejected     trial       its time has come and it is picked: others keep away for another `ejection_base`
    trial       available   on_connected, on_alive: forgotten
    trial       ejected     on_failed: one failure more
    ejected     ejected     on_failed: counted once only, or one restart of a pod under load would eject it for minutes

Ejected endpoints are still tried when nothing else is left, least recently ejected first. Only the report of a failed
*connect* ejects. A refusal by a limit or a policy says that the endpoint is alive: that is `on_alive`.

A balancer belongs to one service: a pod whose `admin` socket is missing may serve `http` very well. `Balancers` holds them.

Time and randomness come from the caller. Nothing here grows with connections: state is kept per endpoint, and `retain` drops
the endpoints that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import exp
from operator import attrgetter, itemgetter
from typing import Final

import attrs

from meshless_core.routing.table import Route, RoutingTable, VersionGroup
from meshless_core.types import Endpoint

__all__ = ["Balancer", "BalancerSettings", "Balancers", "EndpointHealth"]

_DOWN_AFTER: Final = 2
"""Failures in a row, each after a return, from which an endpoint counts as down rather than as having hiccups."""

_MAX_GROUPS: Final = 1_024
"""Groups whose states are kept at hand: far more than a service has versions, and a bound if nobody calls `retain`."""

_NEVER: Final = float("-inf")
_INFINITE: Final = float("inf")

_Key = tuple[str, str, str]


@attrs.frozen
class BalancerSettings:
    """How fast the balancer learns and forgives.

    Attributes:
        latency_decay: seconds after which a latency counts for 1/e.
        latency_floor: seconds; connects faster than this count as equally fast.
        ejection_base: seconds of the first ejection.
        ejection_max: seconds of the longest ejection.
    """

    latency_decay: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    latency_floor: float = attrs.field(default=0.0005, validator=attrs.validators.gt(0))
    ejection_base: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    ejection_max: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))


@attrs.frozen
class EndpointHealth:
    """What the balancer knows about an endpoint at one moment: for `explain`.

    Attributes:
        latency: seconds, the faded average; None before the first connect.
        open: connections open from this node.
        cost: what candidates are compared by; None while ejected.
        failures: failed connects in a row, each after a return.
        ejected_for: seconds during which it is tried last, 0 if it is not ejected.
        on_trial: whether it has returned and one connection is finding out how it is.
    """

    latency: float | None
    open: int
    cost: float | None
    failures: int
    ejected_for: float
    on_trial: bool


@attrs.define(eq=False)
class _State:
    endpoint: Endpoint
    latency: float = 0.0
    stamp: float = 0.0
    measured: bool = False
    open: int = 0
    failures: int = 0
    ejected_at: float = 0.0
    until: float = _NEVER
    on_trial: bool = False


@attrs.frozen(eq=False)
class _Bound:
    """The states of a group's endpoints, looked up once instead of per connection."""

    local: tuple[_State, ...]
    remote: tuple[_State, ...]


class Balancer:
    """Orders the endpoints of one service, and learns from what became of them. Not thread-safe."""

    def __init__(self, rng: Callable[[], float], settings: BalancerSettings | None = None) -> None:
        """Make a balancer.

        Args:
            rng: returns a float in [0, 1), such as `random.random`.
            settings: None for the defaults.
        """
        self.rng = rng
        self._settings = settings or BalancerSettings()
        self._floor, self._decay = self._settings.latency_floor, self._settings.latency_decay
        self._states: dict[_Key, _State] = {}
        self._bound: dict[VersionGroup, _Bound] = {}
        self._failing = 0

    # --- choosing ----------------------------------------------------------------------------------------------------

    def order(self, group: VersionGroup, now: float) -> Iterator[Endpoint]:
        """Yield every endpoint of `group` once, best first, each picked only when it is asked for.

        Args:
            group: the endpoints of one version.
            now: seconds, on a clock that never goes back.
        """
        if len(group.local) + len(group.remote) == 1:
            return iter(group.local or group.remote)
        return self._order(self._bound.get(group) or self._bind(group), now)

    def _order(self, bound: _Bound, now: float) -> Iterator[Endpoint]:
        tried: set[_State] = set()
        for tier in (bound.local, bound.remote):
            candidates: Sequence[_State] = tier
            while candidates:
                picked = self._better_of_two(candidates, now)
                if now < picked.until:
                    # Both drawn ones are ejected: only now is it worth a look at all of them.
                    candidates = [state for state in candidates if now >= state.until]
                    continue
                if picked.failures:
                    picked.on_trial, picked.until = True, now + self._settings.ejection_base
                tried.add(picked)
                yield picked.endpoint
                candidates = [state for state in candidates if now >= state.until and state not in tried]
        left = (state for states in (bound.local, bound.remote) for state in states if state not in tried)
        for state in sorted(left, key=attrgetter("ejected_at")):
            yield state.endpoint

    def _better_of_two(self, candidates: Sequence[_State], now: float) -> _State:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        i = int(self.rng() * count)
        if count == 2:
            j = 1 - i
        else:
            j = int(self.rng() * (count - 1))
            j += j >= i
        first, second = candidates[i], candidates[j]
        return second if self._cost(second, now) < self._cost(first, now) else first

    def _cost(self, state: _State, now: float) -> float:
        if now < state.until:
            return _INFINITE
        floor = self._floor
        if state.latency > floor:
            latency = state.latency * exp((state.stamp - now) / self._decay)
            if latency > floor:
                return latency * (state.open + 1)
        return floor * (state.open + 1)

    def is_down(self, group: VersionGroup, now: float) -> bool:
        """Whether every endpoint of `group` is ejected and failed again after it had returned: nobody can reach it."""
        if not self._failing:
            return False
        bound = self._bound.get(group) or self._bind(group)
        return all(
            state.failures >= _DOWN_AFTER and now < state.until for states in (bound.local, bound.remote) for state in states
        )

    # --- learning ----------------------------------------------------------------------------------------------------

    def on_connected(self, endpoint: Endpoint, latency_seconds: float, now: float) -> None:
        """An attempt succeeded: its latency counts, and what went wrong before is forgotten."""
        state = self._state(endpoint)
        if state.measured:
            old = exp((state.stamp - now) / self._decay)
            state.latency = state.latency * old + latency_seconds * (1.0 - old)
        else:
            state.latency, state.measured = latency_seconds, True
        state.stamp = now
        self._forgive(state)

    def on_alive(self, endpoint: Endpoint) -> None:
        """The endpoint answered, with a refusal (a limit, a policy): proof of life, so what went wrong before is forgotten."""
        state = self._states.get(endpoint.key)
        if state is not None:
            self._forgive(state)

    def _forgive(self, state: _State) -> None:
        if state.failures:
            state.failures, state.until, state.on_trial = 0, _NEVER, False
            self._failing -= 1

    def on_failed(self, endpoint: Endpoint, now: float) -> None:
        """An attempt to connect failed: eject the endpoint. Not for limits, policies or attempts the caller gave up."""
        state = self._state(endpoint)
        if now < state.until and not state.on_trial:
            return
        settings = self._settings
        self._failing += not state.failures
        state.failures += 1
        # The exponent is capped before the power: an endpoint may fail for years.
        pause = min(settings.ejection_max, settings.ejection_base * 2.0 ** min(state.failures - 1, 64))
        state.ejected_at, state.until, state.on_trial = now, now + pause, False

    def on_opened(self, endpoint: Endpoint) -> None:
        """One connection more. Call it when an attempt *starts*, so that connects under way count as load."""
        self._state(endpoint).open += 1

    def on_closed(self, endpoint: Endpoint) -> None:
        """One connection less: it ended, or the attempt failed. Once for every `on_opened`."""
        state = self._states.get(endpoint.key)
        if state is not None and state.open:
            state.open -= 1

    def retain(self, endpoints: Iterable[Endpoint]) -> None:
        """Forget every endpoint that is not among `endpoints`: call it with `Route.endpoints` after each change."""
        states = self._states
        self._states = {key: states[key] for endpoint in endpoints if (key := endpoint.key) in states}
        self._bound.clear()
        self._failing = sum(1 for state in self._states.values() if state.failures)

    def health(self, endpoint: Endpoint, now: float) -> EndpointHealth:
        """What is known about an endpoint. Changes nothing."""
        state = self._states.get(endpoint.key) or _State(endpoint)
        return EndpointHealth(
            latency=state.latency * exp((state.stamp - now) / self._decay) if state.measured else None,
            open=state.open,
            cost=None if now < state.until else self._cost(state, now),
            failures=state.failures,
            ejected_for=max(0.0, state.until - now),
            on_trial=state.on_trial and now < state.until,
        )

    def ranking(self, group: VersionGroup, now: float) -> list[Endpoint]:
        """The endpoints as `order` ranks them when the dice favour the cheapest. Changes nothing: for `explain`."""
        available: list[tuple[float, Endpoint]] = []
        ejected: list[tuple[float, Endpoint]] = []
        for tier in (group.local, group.remote):
            costs: list[tuple[float, Endpoint]] = []
            for endpoint in tier:
                state = self._states.get(endpoint.key) or _State(endpoint)
                if now < state.until:
                    ejected.append((state.ejected_at, endpoint))
                else:
                    costs.append((self._cost(state, now), endpoint))
            available += sorted(costs, key=itemgetter(0))
        return [endpoint for _, endpoint in (*available, *sorted(ejected, key=itemgetter(0)))]

    def __len__(self) -> int:
        return len(self._states)

    # --- state -------------------------------------------------------------------------------------------------------

    def _state(self, endpoint: Endpoint) -> _State:
        key = endpoint.key
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(endpoint)
        return state

    def _bind(self, group: VersionGroup) -> _Bound:
        if len(self._bound) >= _MAX_GROUPS:
            self._bound.clear()
        bound = _Bound(local=tuple(map(self._rebound, group.local)), remote=tuple(map(self._rebound, group.remote)))
        self._bound[group] = bound
        return bound

    def _rebound(self, endpoint: Endpoint) -> _State:
        state = self._state(endpoint)
        # The same pod may have a new address or label in a newer document.
        state.endpoint = endpoint
        return state


class Balancers:
    """The balancers of an agent, one per service, made when first needed."""

    def __init__(self, rng: Callable[[], float], settings: BalancerSettings | None = None) -> None:
        """Make an empty set; see `Balancer` for the arguments."""
        self._rng = rng
        self._settings = settings or BalancerSettings()
        self._by_service: dict[str, Balancer] = {}

    def of(self, route: Route) -> Balancer:
        """The balancer of a route's service."""
        balancer = self._by_service.get(route.text)
        if balancer is None:
            balancer = self._by_service[route.text] = Balancer(self._rng, self._settings)
        return balancer

    def retain(self, table: RoutingTable) -> None:
        """Forget services and endpoints that `table` does not have. Call it whenever the table changes."""
        for text in list(self._by_service):
            route = table.route_for(text)
            if route is None:
                del self._by_service[text]
            else:
                self._by_service[text].retain(route.endpoints)

    def __len__(self) -> int:
        return len(self._by_service)
