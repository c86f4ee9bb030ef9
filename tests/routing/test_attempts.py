from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.routing import Attempt, Attempts, Balancer, Route, attempts
from meshless_core.routing.attempts import spill_order


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(random.Random(5).random)


@pytest.fixture
def route(world) -> Route:
    pods = [world.endpoint(f"{version}-{number}", version) for version in ("v1", "v2", "v3") for number in (1, 2)]
    route: Route = world.table(world.service(*pods, canary={"v1": 70, "v2": 20, "v3": 10})).route(world.http)
    return route


def fail_all(tries: Attempts, balancer: Balancer, now: float) -> list[Attempt]:
    made = []
    for attempt in tries:
        balancer.on_failed(attempt.endpoint, now)
        made.append(attempt)
    return made


def test_the_chosen_version_comes_first_then_all_others_marked_as_spilled(route: Route, balancer: Balancer) -> None:
    made = fail_all(attempts(route, "v2", balancer, 0.0), balancer, 0.0)
    assert [attempt.endpoint.version for attempt in made][:2] == ["v2", "v2"]
    assert [attempt.spilled for attempt in made] == [False] * 2 + [True] * 4
    assert len({attempt.endpoint for attempt in made}) == 6


def test_a_limit_does_not_spill_to_other_versions(route: Route, balancer: Balancer) -> None:
    tries = attempts(route, "v2", balancer, 0.0)
    made = []
    for attempt in tries:
        made.append(attempt.endpoint.version)
        tries.limited()
    assert made == ["v2", "v2"]
    assert tries.was_limited


def test_one_unreachable_and_one_full_endpoint_do_not_spill_either(route: Route, balancer: Balancer) -> None:
    tries = attempts(route, "v2", balancer, 0.0)
    tries_made = [next(tries)]
    tries.limited()
    tries_made.append(next(tries))
    balancer.on_failed(tries_made[1].endpoint, 0.0)
    assert next(tries, None) is None


def test_a_limit_met_after_spilling_goes_no_further(route: Route, balancer: Balancer) -> None:
    tries = attempts(route, "v2", balancer, 0.0)
    made = []
    for attempt in tries:
        made.append(attempt.endpoint.version)
        if attempt.spilled:
            tries.limited()
    assert made[:2] == ["v2", "v2"]
    assert len(made) == 4
    assert len(set(made[2:])) == 1


def test_a_version_that_stays_unreachable_lets_the_others_go_first(route: Route, balancer: Balancer) -> None:
    for endpoint in route.groups["v2"]:
        balancer.on_failed(endpoint, 0.0)
    assert next(attempts(route, "v2", balancer, 0.5)).endpoint.version == "v2"
    for endpoint in route.groups["v2"]:
        balancer.on_failed(endpoint, 1.0)
    made = list(attempts(route, "v2", balancer, 1.5))
    assert [attempt.spilled for attempt in made] == [True] * 4 + [False] * 2
    assert next(attempts(route, "v2", balancer, 3.5)).endpoint.version == "v2"


def test_a_lone_version_is_tried_however_often_it_failed(world, balancer: Balancer) -> None:
    route = world.table(world.service(world.endpoint("a"))).route(world.http)
    for now in (0.0, 1.0, 3.0, 7.0):
        assert [attempt.endpoint.pod.name for attempt in attempts(route, None, balancer, now)] == ["a"]
        balancer.on_failed(route.endpoints[0], now)


def test_a_version_that_was_not_offered_is_refused_at_once(route: Route, balancer: Balancer) -> None:
    with pytest.raises(KeyError):
        attempts(route, "v9", balancer, 0.0)


def test_pinned_versions_of_a_service_without_strategy_are_tried_first(world, balancer: Balancer) -> None:
    service = world.service(world.endpoint("a", "v1"), world.endpoint("b", "v2"))
    route = world.table(service).route(world.http).for_wishes(None, "v2")
    assert [attempt.endpoint.pod.name for attempt in attempts(route, "v2", balancer, 0.0)] == ["b", "a"]


def test_what_spills_is_divided_in_proportion_to_the_weights() -> None:
    rng = random.Random(11).random
    firsts = Counter(spill_order({"v1": 70, "v3": 10}, rng)[0] for _ in range(8_000))
    # Four standard deviations around 1,000.
    assert abs(firsts["v3"] - 1_000) < 120


@given(
    weights=st.dictionaries(st.none() | st.text(max_size=2), st.integers(1, 1_000_000)), draw=st.floats(0, 1, exclude_max=True)
)
def test_spill_order_names_every_version_once(weights: dict[str | None, int], draw: float) -> None:
    assert Counter(spill_order(weights, lambda: draw)) == Counter(list(weights))
