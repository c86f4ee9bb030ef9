from __future__ import annotations

import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_sdk import errors
from meshless_sdk.retrying import Retry, Schedule


def schedule(retry: Retry | None = None, *, deadline: float | None = None, wait: float = 0.0, rnd: float = 1.0) -> Schedule:
    return Schedule(100.0, retry=retry or Retry(), deadline=deadline, wait_for_agent=wait, random=lambda: rnd)


def refusal(name: str, retry_after: float | None = None) -> errors.ConnectError:
    kind = next(kind for kind in errors.CODES.values() if kind.name == name)
    error = kind("http.cart.shop")
    error.retry_after = retry_after
    return error


@pytest.mark.parametrize("name", [kind.name for kind in errors.CODES.values() if not kind.retryable])
def test_what_is_not_retryable_is_raised_at_once(name: str) -> None:
    assert schedule().pause_after(refusal(name), 100.0) is None


@pytest.mark.parametrize("name", [kind.name for kind in errors.CODES.values() if kind.retryable])
def test_what_is_retryable_is_tried_as_often_as_asked(name: str) -> None:
    plan = schedule(Retry(3))
    pauses = [plan.pause_after(refusal(name), 100.0) for _ in range(3)]
    assert pauses[0] is not None
    assert pauses[1] is not None
    assert pauses[2] is None


def test_pauses_double_up_to_the_cap() -> None:
    plan = schedule(Retry(7, base=0.1, cap=0.5))
    pauses = [plan.pause_after(refusal("NO_ENDPOINT"), 100.0) for _ in range(6)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.5])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 6))
def test_a_pause_is_anything_from_zero_to_its_limit(rnd: float, tries: int) -> None:
    plan = schedule(Retry(20, base=0.1, cap=0.5), rnd=rnd)
    for number in range(tries):
        pause = plan.pause_after(refusal("NO_ENDPOINT"), 100.0)
        assert pause == pytest.approx(rnd * min(0.5, 0.1 * 2**number))


def test_what_the_agent_advises_is_the_least_pause() -> None:
    assert schedule(rnd=0.0).pause_after(refusal("CONNECTION_LIMIT", 3.0), 100.0) == 3.0
    assert schedule(Retry(base=0.5), rnd=1.0).pause_after(refusal("CONNECTION_LIMIT", 3.0), 100.0) == 3.5


def test_a_draining_agent_is_dialled_again_at_once_but_once() -> None:
    plan = schedule(Retry(5, base=1.0))
    assert plan.pause_after(refusal("DRAINING"), 100.0) == 0.0
    assert plan.pause_after(refusal("DRAINING"), 100.0) == 2.0


def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    plan = schedule(deadline=5.0)
    assert plan.pause_after(refusal("CONNECTION_LIMIT", 2.0), 102.0) is not None
    assert plan.pause_after(refusal("CONNECTION_LIMIT", 3.0), 102.0) is None


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED])
def test_an_absent_agent_is_waited_for_without_using_up_tries(number: int) -> None:
    plan = schedule(Retry(1), wait=1.0)
    now, pauses = 100.0, []
    for _ in itertools.count():
        pause = plan.pause_after(errors.AgentUnavailable("gone", number), now)
        if pause is None:
            break
        pauses.append(pause)
        now += pause
    assert now == pytest.approx(101.0)
    assert max(pauses) <= 0.25
    assert pauses[:3] == [0.01, 0.02, 0.04]


def test_the_deadline_bounds_waiting_for_the_agent() -> None:
    plan = schedule(wait=60.0, deadline=0.5)
    assert plan.pause_after(errors.AgentUnavailable("gone", errno.ENOENT), 100.4) is not None
    assert plan.pause_after(errors.AgentUnavailable("gone", errno.ENOENT), 100.5) is None


def test_no_permission_is_a_try_not_an_absence() -> None:
    assert schedule(Retry(1), wait=60.0).pause_after(errors.AgentUnavailable("no", errno.EACCES), 100.0) is None


def test_a_step_gets_its_own_limit_or_what_is_left() -> None:
    plan = schedule(deadline=5.0)
    assert plan.left(101.0, 2.0) == 2.0
    assert plan.left(104.0, 2.0) == 1.0
    assert plan.left(104.0, None) == 1.0
    assert plan.left(109.0, 2.0) == 0.0
    assert schedule().left(109.0, None) is None


@pytest.mark.parametrize("arguments", [{"attempts": 0}, {"base": -1.0}, {"cap": -1.0}])
def test_a_policy_that_cannot_be_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(errors.InvalidArgument, match="attempts has to be 1 or more"):
        Retry(**arguments)  # type: ignore[arg-type] # wrong on purpose


def test_a_policy_shows_what_it_is() -> None:
    assert repr(Retry(3)) == "Retry(3, base=0.05, cap=2.0)"
