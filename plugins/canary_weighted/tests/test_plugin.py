from __future__ import annotations

from collections import Counter

import attrs
import pytest
from meshless_canary_weighted.plugin import Options, WeightedSelector, meshless_register_canary_selector

from meshless_core import PLUGIN_API, CanaryRequest, ServiceId, VersionShare
from meshless_core.testing.canary import check_canary_selector

HTTP = ServiceId("http", "cart", "shop")


def shares(**weights: int) -> tuple[VersionShare, ...]:
    return tuple(VersionShare(version, weight, ready=1) for version, weight in weights.items())


def chosen(
    selector: WeightedSelector, count: int, offer: tuple[VersionShare, ...], target: ServiceId = HTTP
) -> Counter[str | None]:
    return Counter(selector.choose(CanaryRequest(target, offer)) for _ in range(count))


def test_registers_itself_with_options_that_all_have_defaults() -> None:
    spec = meshless_register_canary_selector()
    assert spec.api == PLUGIN_API
    assert isinstance(spec.create(spec.options()), WeightedSelector)
    assert all(field.metadata["doc"] for field in attrs.fields(Options))


def test_ten_thousand_connections_at_90_to_10_are_exact() -> None:
    assert chosen(WeightedSelector(Options()), 10_000, shares(v1=90, v2=10)) == {"v1": 9_000, "v2": 1_000}


def test_three_hundred_connections_at_one_percent_give_three() -> None:
    assert chosen(WeightedSelector(Options()), 300, shares(v1=99, v2=1)) == {"v1": 297, "v2": 3}


def test_many_agents_with_a_few_connections_each_add_up_to_the_shares() -> None:
    offer = shares(v1=90, v2=10)
    counts: Counter[str | None] = Counter()
    for agent in range(5_000):
        counts += chosen(WeightedSelector(Options(seed=agent)), 2, offer)
    assert abs(counts["v2"] - 1_000) < 100


def test_changed_weights_apply_to_the_next_connection() -> None:
    selector = WeightedSelector(Options(seed=1))
    chosen(selector, 77, shares(v1=90, v2=10))
    assert chosen(selector, 1_000, shares(v1=50, v2=50)) == {"v1": 500, "v2": 500}
    assert chosen(selector, 100, shares(v1=1)) == {"v1": 100}


def test_scaling_a_version_does_not_disturb_the_order() -> None:
    selector = WeightedSelector(Options(seed=1))
    counts: Counter[str | None] = Counter()
    for ready in range(1, 301):
        offer = (VersionShare("v1", 99, ready), VersionShare("v2", 1, 1))
        counts += chosen(selector, 1, offer)
    assert counts["v2"] == 3


def test_services_do_not_share_a_wheel() -> None:
    selector = WeightedSelector(Options(seed=4))
    counts: Counter[tuple[str, str | None]] = Counter()
    for _ in range(100):
        for service in ("http", "grpc"):
            counts[service, selector.choose(CanaryRequest(ServiceId(service, "cart", "shop"), shares(v1=1, v2=1)))] += 1
    assert set(counts.values()) == {50}


def test_what_is_remembered_is_bounded_and_the_least_recently_used_goes_first() -> None:
    selector = WeightedSelector(Options(seed=0, max_services=2))
    offer = shares(v1=1, v2=1)
    a, b, c = (ServiceId(name, "cart", "shop") for name in "abc")
    for target in (a, b, a, c):
        selector.choose(CanaryRequest(target, offer))
    assert [key[0] for key in selector._dealers] == ["a", "c"]


def test_a_pin_is_honoured_if_offered_and_ignored_otherwise() -> None:
    selector = WeightedSelector(Options(seed=1))
    offer = shares(v1=99, v2=1)
    assert {selector.choose(CanaryRequest(HTTP, offer, version_pin="v2")) for _ in range(50)} == {"v2"}
    assert Counter(selector.choose(CanaryRequest(HTTP, offer, version_pin="v9")) for _ in range(300))["v2"] == 3


def test_a_sticky_key_gets_the_same_version_from_every_agent() -> None:
    offer = shares(v1=50, v2=50)
    one, other = WeightedSelector(Options(seed=1)), WeightedSelector(Options(seed=2))
    answers = [one.choose(CanaryRequest(HTTP, offer, sticky_key=b"%d" % n)) for n in range(100)]
    assert answers == [other.choose(CanaryRequest(HTTP, offer, sticky_key=b"%d" % n)) for n in range(100)]
    assert set(answers) == {"v1", "v2"}


def test_wishes_do_not_use_up_the_turns_of_those_who_wish_nothing() -> None:
    selector = WeightedSelector(Options(seed=1))
    offer = shares(v1=3, v2=1)
    counts: Counter[str | None] = Counter()
    for n in range(400):
        selector.choose(CanaryRequest(HTTP, offer, sticky_key=b"%d" % n))
        selector.choose(CanaryRequest(HTTP, offer, version_pin="v2"))
        counts[selector.choose(CanaryRequest(HTTP, offer))] += 1
    assert counts == {"v1": 300, "v2": 100}


def test_pods_without_a_version_are_a_version_of_their_own() -> None:
    offer = (VersionShare(None, 1, 1), VersionShare("v1", 1, 1))
    assert chosen(WeightedSelector(Options()), 10, offer) == {None: 5, "v1": 5}


def test_max_services_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_services"):
        Options(max_services=0)


@pytest.mark.parametrize("max_services", [1, 2, 10_000])
async def test_it_keeps_the_contract_of_canary_selectors(max_services: int) -> None:
    await check_canary_selector(lambda: WeightedSelector(Options(seed=1, max_services=max_services)))
