from __future__ import annotations

import errno

import pytest
from meshless_sdk import errors
from meshless_sdk.patience import Patience, is_absent

ABSENT = [errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED]


def missing(number: int = errno.ENOENT) -> errors.AgentUnavailable:
    error = errors.AgentUnavailable("cannot reach the agent at /p: there is no such socket; check", number)
    error.__cause__ = OSError(number, "as the kernel says it")
    return error


def test_no_socket_and_nobody_listening_are_an_absence_and_nothing_else_is() -> None:
    assert all(is_absent(missing(number)) for number in ABSENT)
    assert not any(is_absent(missing(number)) for number in (0, errno.EACCES, errno.EAGAIN, errno.EPROTOTYPE))
    assert not is_absent(errors.Draining("http.cart.shop"))


def test_pauses_double_up_to_a_quarter_of_a_second() -> None:
    patience = Patience(100.0, None)
    pauses = [patience.pause(100.0) for _ in range(7)]
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]


def test_the_last_look_is_when_the_time_is_over() -> None:
    patience, now = Patience(100.0, 1.0), 100.0
    while (pause := patience.pause(now)) is not None:
        now += pause
    assert now == pytest.approx(101.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_one_look(seconds: float) -> None:
    patience = Patience(100.0, seconds)
    assert patience.left(100.0) == 0.0
    assert patience.pause(100.0) is None
    error = missing()
    with pytest.raises(errors.AgentUnavailable) as caught:
        patience.pause_after(error, 100.0)
    assert caught.value is error


def test_none_is_for_ever() -> None:
    patience = Patience(100.0, None)
    assert patience.left(1e9) is None
    assert patience.pause_after(missing(), 1e9) == 0.01


def test_what_is_left_never_goes_below_zero() -> None:
    patience = Patience(100.0, 5.0)
    assert [patience.left(now) for now in (100.0, 104.0, 106.0)] == [5.0, 1.0, 0.0]


@pytest.mark.parametrize("number", ABSENT)
def test_the_error_at_the_end_says_how_long_was_waited_and_keeps_its_cause(number: int) -> None:
    error = missing(number)
    with pytest.raises(errors.AgentUnavailable) as caught:
        Patience(100.0, 5.0).pause_after(error, 105.0)
    assert str(caught.value) == f"{error} (waited 5 s)"
    assert caught.value.errno == number
    assert caught.value.__cause__ is error.__cause__


def test_an_agent_that_is_there_is_not_looked_for() -> None:
    error = missing(errno.EACCES)
    with pytest.raises(errors.AgentUnavailable) as caught:
        Patience(100.0, 5.0).pause_after(error, 100.0)
    assert caught.value is error
    assert caught.value.__cause__ is not None
