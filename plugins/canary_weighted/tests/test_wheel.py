from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from meshless_canary_weighted.wheel import Wheel

weight_lists = st.lists(st.integers(0, 1_000), min_size=1, max_size=6).filter(any)


def dealt(wheel: Wheel, count: int) -> Counter[int]:
    return Counter(wheel.next() for _ in range(count))


@given(weights=weight_lists, seed=st.integers(0, 1 << 32), count=st.integers(1, 2_000))
@example(weights=[99, 1], seed=1, count=300)
def test_counts_stay_within_a_few_connections_of_the_shares_at_every_length(weights: list[int], seed: int, count: int) -> None:
    counts = dealt(Wheel(weights, random.Random(seed).randrange), count)
    used = sum(1 for weight in weights if weight)
    for position, weight in enumerate(weights):
        assert abs(counts[position] - count * weight / sum(weights)) < max(1, used - 1)


@given(weights=weight_lists, seed=st.integers(0, 1 << 32))
def test_weight_zero_is_never_dealt(weights: list[int], seed: int) -> None:
    counts = dealt(Wheel(weights, random.Random(seed).randrange), 500)
    assert not [position for position in counts if weights[position] == 0]


@pytest.mark.parametrize("seed", range(20))
def test_one_percent_of_300_connections_is_three(seed: int) -> None:
    assert dealt(Wheel([99, 1], random.Random(seed).randrange), 300)[1] == 3


@given(weights=st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_over_all_starting_points_the_first_connection_is_dealt_exactly_by_the_shares(weights: list[int]) -> None:
    counts: Counter[int] = Counter()
    sizes: list[int] = []

    def record(size: int) -> int:
        sizes.append(size)
        return 0

    Wheel(weights, record)
    total = 1
    for size in sizes:
        total *= size
    for start in range(total):
        digits = start

        def digit(size: int) -> int:
            nonlocal digits
            digits, value = divmod(digits, size)
            return value

        counts[Wheel(weights, digit).next()] += 1
    for position, weight in enumerate(weights):
        assert counts[position] * sum(weights) == weight * total


def test_the_minority_is_spread_evenly_rather_than_bunched() -> None:
    wheel = Wheel([3, 1], lambda _: 0)
    assert [wheel.next() for _ in range(12)] == [0, 0, 0, 1] * 3


def test_huge_weights_cost_neither_memory_nor_exactness() -> None:
    wheel = Wheel([999_999, 1], lambda n: n - 1)
    assert wheel.next() == 1
    assert dealt(wheel, 10_000) == {0: 10_000}


@pytest.mark.parametrize("weights", [[], [0], [0, 0], [3, -1]])
def test_weights_that_share_nothing_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one above 0"):
        Wheel(weights, random.Random(0).randrange)
