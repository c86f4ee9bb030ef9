"""Every slow call is measured, a sample of the quick ones, and every failure counts."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from meshless_core.agent.hook_times import SAMPLE_EVERY, Countdown, HookTimes
from meshless_core.errors import BusError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def times(clock: Clock) -> HookTimes:
    return HookTimes(clock)


def seconds(times: HookTimes, plugin: str, hook: str) -> tuple[int, float]:
    measured = times.times[plugin, hook]
    return sum(measured.counts), measured.total


def test_a_measured_call_counts_with_its_time_also_if_it_raises(times: HookTimes, clock: Clock) -> None:
    def slow(by: float, *, fail: bool = False) -> str:
        clock.now += by
        if fail:
            raise ValueError("broken")
        return "done"

    measured = times.measured("p", "h", slow)
    assert measured(0.5) == "done"
    with pytest.raises(ValueError, match="broken"):
        measured(0.25, fail=True)
    assert seconds(times, "p", "h") == (2, 0.75)


def test_a_block_that_fails_as_it_may_is_no_failure_of_the_plugin(times: HookTimes, clock: Clock) -> None:
    def lose_the_broker() -> None:
        clock.now += 1
        raise BusError("the broker is gone")

    with pytest.raises(BusError), times.measuring("p", "h", expected=BusError):
        lose_the_broker()
    assert seconds(times, "p", "h") == (1, 1.0)
    assert not times.failures
    with pytest.raises(KeyError), times.measuring("p", "h", expected=BusError):
        raise KeyError
    assert times.failures == {("p", "h", "raised"): 1}


def test_being_cancelled_is_measured_and_no_failure(times: HookTimes) -> None:
    with pytest.raises(asyncio.CancelledError), times.measuring("p", "h", expected=BusError):
        raise asyncio.CancelledError
    assert seconds(times, "p", "h") == (1, 0.0)
    assert not times.failures


def test_the_first_call_is_measured_and_one_in_so_many_afterwards() -> None:
    countdown = Countdown(draw=random.Random(1).randint)
    measured = []
    for call in range(SAMPLE_EVERY * 1000):
        countdown.left -= 1
        if not countdown.left:
            countdown.restart()
            measured.append(call)
    assert measured[0] == 0
    assert 900 < len(measured) < 1100
    assert len({after - before for before, after in itertools.pairwise(measured)}) > SAMPLE_EVERY, "no rhythm"
