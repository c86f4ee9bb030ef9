from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshless_core.routing import Balancer, Balancers, BalancerSettings, VersionGroup
from meshless_core.types import Endpoint, PodRef, ServiceId


def endpoint(name: str, node: str = "node-1", uid: str = "") -> Endpoint:
    return Endpoint(PodRef("shop", name), uid or f"uid-{name}", node, f"{node}:4711", None, True)


A, B, C, D = (endpoint(name) for name in "abcd")
FAR = endpoint("far", "node-2")


def local(*endpoints: Endpoint) -> VersionGroup:
    return VersionGroup(local=endpoints, remote=())


def names(balancer: Balancer, group: VersionGroup, now: float) -> str:
    return "".join(endpoint.pod.name for endpoint in balancer.order(group, now))


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(random.Random(7).random)


# --- order -----------------------------------------------------------------------------------------------------------


def test_the_same_node_comes_first_however_busy(balancer: Balancer) -> None:
    for _ in range(100):
        balancer.on_opened(A)
    balancer.on_connected(A, 1.0, now=0.0)
    for _ in range(20):
        assert list(balancer.order(VersionGroup(local=(A,), remote=(FAR,)), now=0.0)) == [A, FAR]


def test_of_two_the_one_with_fewer_open_connections_is_taken(balancer: Balancer) -> None:
    balancer.on_opened(A)
    assert {next(balancer.order(local(A, B), 0.0)) for _ in range(20)} == {B}
    balancer.on_opened(B)
    balancer.on_opened(B)
    assert {next(balancer.order(local(A, B), 0.0)) for _ in range(20)} == {A}
    balancer.on_closed(B)
    balancer.on_closed(B)
    assert {next(balancer.order(local(A, B), 0.0)) for _ in range(20)} == {B}


def test_of_two_the_one_that_connects_faster_is_taken(balancer: Balancer) -> None:
    balancer.on_connected(A, 0.020, now=0.0)
    balancer.on_connected(B, 0.002, now=0.0)
    assert {next(balancer.order(local(A, B), 0.0)) for _ in range(20)} == {B}


def test_latency_times_load_decides(balancer: Balancer) -> None:
    balancer.on_connected(A, 0.004, now=0.0)
    balancer.on_connected(B, 0.002, now=0.0)
    balancer.on_opened(B)
    balancer.on_opened(B)
    assert next(balancer.order(local(A, B), 0.0)) is A


def test_differences_below_the_floor_are_noise_and_equals_share_evenly(balancer: Balancer) -> None:
    balancer.on_connected(A, 0.000_1, now=0.0)
    balancer.on_connected(B, 0.000_4, now=0.0)
    counts = Counter(next(balancer.order(local(A, B, C), 0.0)) for _ in range(3_000))
    assert all(abs(counts[each] - 1_000) < 150 for each in (A, B, C))


def test_load_spreads_over_many_endpoints_with_two_choices() -> None:
    balancer = Balancer(random.Random(1).random)
    group = local(*(endpoint(f"p{number}") for number in range(50)))
    load: Counter[Endpoint] = Counter()
    for _ in range(5_000):
        picked = next(balancer.order(group, 0.0))
        balancer.on_opened(picked)
        load[picked] += 1
    # 100 each on average. One random choice strays by 3 * sqrt(100) = 30; two choices by log log n.
    assert max(load.values()) <= 105
    assert min(load.values()) >= 90


def test_an_old_slow_answer_is_forgiven(balancer: Balancer) -> None:
    balancer.on_connected(A, 2.0, now=0.0)
    balancer.on_connected(B, 0.001, now=0.0)
    assert next(balancer.order(local(A, B), 1.0)) is B
    balancer.on_connected(B, 0.001, now=100.0)
    assert next(balancer.order(local(A, B), 100.0)) is A


def test_the_average_follows_new_latencies_by_their_age(balancer: Balancer) -> None:
    balancer.on_connected(A, 0.010, now=0.0)
    balancer.on_connected(A, 0.020, now=0.0)
    assert balancer.health(A, 0.0).latency == pytest.approx(0.010)
    balancer.on_connected(A, 0.020, now=10.0)
    assert 0.016 < (balancer.health(A, 10.0).latency or 0) < 0.017
    balancer.on_connected(A, 0.020, now=1_000.0)
    assert balancer.health(A, 1_000.0).latency == pytest.approx(0.020)


@given(
    near=st.integers(0, 6),
    far=st.integers(0, 6),
    failed=st.sets(st.integers(0, 11)),
    now=st.floats(0, 5),
    seed=st.integers(0, 1 << 16),
)
def test_every_endpoint_comes_exactly_once_whatever_failed(
    near: int, far: int, failed: set[int], now: float, seed: int
) -> None:
    group = VersionGroup(
        local=tuple(endpoint(f"n{i}") for i in range(near)), remote=tuple(endpoint(f"f{i}", "node-2") for i in range(far))
    )
    balancer = Balancer(random.Random(seed).random)
    for position, each in enumerate(group):
        if position in failed:
            balancer.on_failed(each, 0.0)
    order = list(balancer.order(group, now))
    assert Counter(order) == Counter(group)
    assert Counter(balancer.ranking(group, now)) == Counter(group)


def test_endpoints_that_fail_while_being_tried_do_not_come_twice(balancer: Balancer) -> None:
    order = []
    for each in balancer.order(local(A, B, C, D), 0.0):
        balancer.on_failed(each, 0.0)
        order.append(each)
    assert Counter(order) == Counter([A, B, C, D])


def test_an_empty_group_yields_nothing(balancer: Balancer) -> None:
    assert list(balancer.order(local(), 0.0)) == []


# --- ejection --------------------------------------------------------------------------------------------------------


def test_a_failed_endpoint_is_last_until_its_time_has_come(balancer: Balancer) -> None:
    balancer.on_failed(A, now=10.0)
    assert {names(balancer, local(A, B), 10.0 + age) for age in (0.0, 0.5, 0.99)} == {"ba"}
    balancer.on_opened(B)
    assert names(balancer, local(A, B), 11.0) == "ab"


def test_an_ejected_local_endpoint_is_worse_than_a_remote_one(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    assert list(balancer.order(VersionGroup(local=(A,), remote=(FAR,)), 0.0)) == [FAR, A]


def test_when_all_are_ejected_the_least_recently_ejected_is_tried_first(balancer: Balancer) -> None:
    for age, each in enumerate((C, A, B)):
        balancer.on_failed(each, now=age / 10)
    assert names(balancer, local(A, B, C), 0.3) == "cab"


def test_each_failure_after_a_return_doubles_the_ejection_up_to_the_maximum() -> None:
    balancer = Balancer(random.Random(0).random, BalancerSettings(ejection_base=1.0, ejection_max=10.0))
    now, pauses = 0.0, []
    for _ in range(6):
        balancer.on_failed(A, now)
        pauses.append(balancer.health(A, now).ejected_for)
        now += pauses[-1]
    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8.0, 10.0, 10.0])


def test_failing_for_years_does_not_overflow(balancer: Balancer) -> None:
    now = 0.0
    for _ in range(2_000):
        balancer.on_failed(A, now)
        now += 60.0
    assert balancer.health(A, now - 60.0).ejected_for == 60.0


def test_many_failures_at_once_count_as_one(balancer: Balancer) -> None:
    for _ in range(32):
        balancer.on_failed(A, now=0.0)
    assert balancer.health(A, 0.0).failures == 1
    assert balancer.health(A, 0.0).ejected_for == 1.0


def test_success_resets_everything(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    balancer.on_failed(A, now=1.0)
    balancer.on_connected(A, 0.000_1, now=1.5)
    assert (balancer.health(A, 1.5).failures, balancer.health(A, 1.5).ejected_for) == (0, 0.0)
    balancer.on_failed(A, now=2.0)
    assert balancer.health(A, 2.0).ejected_for == 1.0


def test_a_refusal_by_a_limit_or_a_policy_is_proof_of_life(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    balancer.on_alive(A)
    balancer.on_alive(B)
    assert (balancer.health(A, 0.0).failures, balancer.health(A, 0.0).latency) == (0, None)
    balancer.on_opened(B)
    assert next(balancer.order(local(A, B), 0.0)) is A


def test_after_its_return_one_connection_tries_while_the_others_keep_away(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    balancer.on_opened(B)
    assert next(balancer.order(local(A, B), 1.0)) is A
    assert balancer.health(A, 1.0).on_trial
    assert {next(balancer.order(local(A, B), 1.5)) for _ in range(20)} == {B}
    balancer.on_connected(A, 0.000_1, now=1.6)
    assert next(balancer.order(local(A, B), 1.6)) is A


def test_a_trial_that_fails_counts_even_though_others_keep_away(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    balancer.on_opened(B)
    assert next(balancer.order(local(A, B), 1.0)) is A
    balancer.on_failed(A, now=1.1)
    assert balancer.health(A, 1.1).failures == 2
    assert balancer.health(A, 1.1).ejected_for == pytest.approx(2.0)


def test_a_trial_nobody_finished_is_given_to_another_connection(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    balancer.on_opened(B)
    assert next(balancer.order(local(A, B), 1.0)) is A
    assert next(balancer.order(local(A, B), 2.0)) is A


def test_a_group_is_down_once_all_of_it_failed_again_after_a_return(balancer: Balancer) -> None:
    group = local(A, B)
    assert not balancer.is_down(group, 0.0)
    balancer.on_failed(A, 0.0)
    balancer.on_failed(B, 0.0)
    assert not balancer.is_down(group, 0.0)
    balancer.on_failed(A, 1.0)
    assert not balancer.is_down(group, 1.0)
    balancer.on_failed(B, 1.0)
    assert balancer.is_down(group, 1.0)
    assert not balancer.is_down(group, 3.0)


# --- state -----------------------------------------------------------------------------------------------------------


def test_a_recreated_pod_of_the_same_name_starts_afresh(balancer: Balancer) -> None:
    balancer.on_failed(A, now=0.0)
    assert balancer.health(endpoint("a", uid="another"), 0.0).failures == 0


def test_endpoints_that_are_gone_are_forgotten_and_the_others_kept(balancer: Balancer) -> None:
    for each in (A, B):
        balancer.on_opened(each)
        balancer.on_failed(each, 0.0)
    balancer.retain([B, C])
    assert len(balancer) == 1
    assert (balancer.health(A, 0.0).open, balancer.health(B, 0.0).open) == (0, 1)
    assert balancer.health(B, 0.0).failures == 1
    balancer.on_closed(A)
    assert balancer.health(A, 0.0).open == 0


def test_a_moved_endpoint_keeps_its_history_and_is_yielded_as_it_is_now(balancer: Balancer) -> None:
    next(balancer.order(local(A, B), 0.0))
    balancer.on_opened(A)
    moved = Endpoint(A.pod, A.uid, A.node, "node-1:9999", "v2", ready=True)
    assert list(balancer.order(local(moved, B), 0.0))[1].address == "node-1:9999"


def test_closing_more_than_was_opened_does_not_go_below_zero(balancer: Balancer) -> None:
    balancer.on_opened(A)
    balancer.on_closed(A)
    balancer.on_closed(A)
    assert balancer.health(A, 0.0).open == 0


def test_asking_for_health_or_ranking_remembers_nothing(balancer: Balancer) -> None:
    balancer.health(A, 0.0)
    balancer.ranking(local(A, B), 0.0)
    assert len(balancer) == 0


@pytest.mark.parametrize("name", ["latency_decay", "latency_floor", "ejection_base", "ejection_max"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BalancerSettings(**{name: 0.0})


def test_services_learn_separately_and_vanish_with_their_service(world) -> None:
    grpc = ServiceId("grpc", "cart", "shop")
    table = world.table(world.service(A), world.service(A, service=grpc))
    balancers = Balancers(random.Random(0).random)
    balancers.of(table.route(world.http)).on_failed(A, 0.0)
    balancers.of(table.route(grpc)).on_opened(A)
    assert balancers.of(table.route(grpc)).health(A, 0.0).failures == 0
    balancers.retain(world.table(world.service(A)))
    assert len(balancers) == 1
    assert balancers.of(table.route(world.http)).health(A, 0.0).failures == 1


class Life(RuleBasedStateMachine):
    """Anything may happen in any order; what is promised must hold all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.balancer = Balancer(random.Random(3).random)
        self.group = VersionGroup(local=(A, B, C), remote=(D, FAR))
        self.open: Counter[Endpoint] = Counter()

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(works=st.sets(st.sampled_from([A, B, C, D, FAR])))
    def connect(self, works: set[Endpoint]) -> None:
        for each in self.balancer.order(self.group, self.now):
            if each in works:
                self.balancer.on_opened(each)
                self.balancer.on_connected(each, 0.001, self.now)
                self.open[each] += 1
                assert self.balancer.health(each, self.now).failures == 0
                return
            self.balancer.on_failed(each, self.now)
        assert not works & set(self.group)

    @rule(which=st.sampled_from([A, B, C, D, FAR]))
    def refused(self, which: Endpoint) -> None:
        self.balancer.on_alive(which)
        assert self.balancer.health(which, self.now).failures == 0

    @rule(which=st.sampled_from([A, B, C, D, FAR]))
    def close(self, which: Endpoint) -> None:
        if self.open[which]:
            self.open[which] -= 1
            self.balancer.on_closed(which)

    @rule(locals_=st.sets(st.sampled_from([A, B, C])))
    def change(self, locals_: set[Endpoint]) -> None:
        self.group = VersionGroup(local=tuple(each for each in (A, B, C) if each in locals_), remote=(D, FAR))
        self.balancer.retain(self.group)
        for each in (A, B, C):
            if each not in locals_:
                self.open[each] = 0

    @invariant()
    def health_is_sound(self) -> None:
        for each in self.group:
            health = self.balancer.health(each, self.now)
            assert health.open == self.open[each]
            assert 0 <= health.ejected_for <= 60.0
            assert health.failures or not health.ejected_for

    @invariant()
    def counters_agree(self) -> None:
        assert self.balancer._failing == sum(1 for state in self.balancer._states.values() if state.failures)
        assert len(self.balancer) <= 5


TestLife = Life.TestCase
