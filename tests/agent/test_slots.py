from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.agent.slots import Slots


def test_the_limit_holds_and_a_given_back_slot_is_free_again() -> None:
    slots = Slots()
    assert slots.take("pod", "http", 2)
    assert slots.take("pod", "http", 2)
    assert not slots.take("pod", "http", 2)
    slots.give_back("pod", "http")
    assert slots.take("pod", "http", 2)


def test_pods_and_services_are_counted_apart() -> None:
    slots = Slots()
    assert slots.take("pod", "http", 1)
    assert slots.take("pod", "admin", 1)
    assert slots.take("other", "http", 1)


def test_without_a_limit_it_is_counted_all_the_same() -> None:
    slots = Slots()
    for _ in range(5):
        assert slots.take("pod", "http", None)
    assert slots.taken("pod", "http") == 5
    assert not slots.take("pod", "http", 5), "a limit that comes later counts what is there"


def test_giving_back_what_was_not_taken_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Slots().give_back("pod", "http")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b"])), max_size=50))
def test_the_count_is_what_was_taken_less_what_was_given_back(steps: list[tuple[bool, str]]) -> None:
    slots, model = Slots(), {"a": 0, "b": 0}
    for take, pod in steps:
        if take:
            assert slots.take(pod, "http", 3) is (model[pod] < 3)
            model[pod] = min(model[pod] + 1, 3)
        elif model[pod]:
            slots.give_back(pod, "http")
            model[pod] -= 1
        assert slots.taken(pod, "http") == model[pod]
    assert len(slots) == sum(count > 0 for count in model.values()), "nothing is kept for pods without connections"
