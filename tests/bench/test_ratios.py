from __future__ import annotations

import pytest

from bench.ratios import Spread, added_latency, by_round, ratios, spread
from bench.works import Sample


def sample(path: str, number: int, rate: float, p50: float | None = None) -> Sample:
    return Sample(path, "echo-1", number, rate, 1, 1.0, 0.0, 0.0, 0.0, p50, None, None)


def test_a_ratio_is_taken_within_each_round_and_then_the_median() -> None:
    # the machine doubles its speed between the rounds: the ratio of medians would say 1.0, each round says 0.5
    mine = {0: 50.0, 1: 100.0, 2: 200.0}
    base = {0: 100.0, 1: 200.0, 2: 400.0}
    assert ratios(mine, base) == Spread(0.5, 0.5, 0.5, 3)


def test_median_smallest_and_largest_of_uneven_rounds() -> None:
    assert spread([3.0, 1.0, 10.0, 2.0]) == Spread(2.5, 1.0, 10.0, 4)


def test_rounds_only_one_of_them_has_do_not_count() -> None:
    assert ratios({0: 1.0, 1: 9.0}, {0: 2.0, 2: 1.0}) == Spread(0.5, 0.5, 0.5, 1)


@pytest.mark.parametrize(("mine", "base"), [({}, {0: 1.0}), ({0: 1.0}, {}), ({0: 1.0}, {0: 0.0})])
def test_nothing_to_compare_is_none_and_not_a_number(mine: dict[int, float], base: dict[int, float]) -> None:
    assert ratios(mine, base) is None


def test_added_latency_is_the_difference_per_round() -> None:
    assert added_latency({0: 60.0, 1: 90.0}, {0: 40.0, 1: 50.0}) == Spread(30.0, 20.0, 40.0, 2)


def test_by_round_picks_path_and_work_and_leaves_out_what_was_not_measured() -> None:
    samples = [sample("a", 0, 1.0, 5.0), sample("b", 0, 2.0, 6.0), sample("a", 1, 3.0)]
    assert by_round(samples, "a", "echo-1", lambda one: one.rate) == {0: 1.0, 1: 3.0}
    assert by_round(samples, "a", "echo-1", lambda one: one.p50_us) == {0: 5.0}
    assert by_round(samples, "a", "bulk", lambda one: one.rate) == {}
