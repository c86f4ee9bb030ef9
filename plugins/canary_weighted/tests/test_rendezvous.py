from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from meshless_canary_weighted.rendezvous import rendezvous

KEYS = [b"client-%d" % number for number in range(10_000)]


def placed(*candidates: tuple[str | None, int], service: bytes = b"http.cart.shop") -> list[str | None]:
    return [rendezvous(service, key, candidates) for key in KEYS]


def test_keys_are_divided_by_the_shares() -> None:
    counts = Counter(placed(("v1", 90), ("v2", 9), (None, 1)))
    # Four standard deviations of the binomial distribution.
    assert abs(counts["v1"] - 9_000) < 120
    assert abs(counts["v2"] - 900) < 115
    assert abs(counts[None] - 100) < 40


def test_a_grown_weight_draws_keys_to_its_version_and_moves_no_other() -> None:
    before = placed(("v1", 90), ("v2", 10))
    after = placed(("v1", 90), ("v2", 20))
    moves = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
    assert set(moves) == {("v1", "v2")}
    # 10/100 to 20/110: 818 of 10,000 are what has to move.
    assert abs(moves["v1", "v2"] - 818) < 110


def test_a_version_that_leaves_moves_only_its_own_keys() -> None:
    before = placed(("v1", 5), ("v2", 3), ("v3", 2))
    after = placed(("v1", 5), ("v3", 2))
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "v2")


def test_services_deal_the_same_key_independently() -> None:
    here = placed(("v1", 1), ("v2", 1))
    there = placed(("v1", 1), ("v2", 1), service=b"sql.db.shop")
    assert 4_700 < sum(a == b for a, b in zip(here, there, strict=True)) < 5_300


@given(
    key=st.binary(max_size=64),
    candidates=st.lists(
        st.tuples(st.none() | st.text(max_size=8), st.integers(1, 1_000_000)), min_size=1, unique_by=lambda pair: pair[0]
    ),
)
def test_the_answer_is_offered_and_does_not_depend_on_the_order(key: bytes, candidates: list[tuple[str | None, int]]) -> None:
    answer = rendezvous(b"http.cart.shop", key, candidates)
    assert answer in [version for version, _ in candidates]
    assert rendezvous(b"http.cart.shop", key, candidates[::-1]) == answer


def test_a_version_named_like_nothing_differs_from_no_version() -> None:
    answers = {rendezvous(b"s", b"%d" % n, [(None, 1), ("", 1)]) for n in range(100)}
    assert answers == {None, ""}
