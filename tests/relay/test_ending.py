"""How an end is noticed and carried out."""

import asyncio
import socket
from typing import Any

import pytest

from meshless_core.relay.ending import IdleTimer, close_with_reset, describe


class Clock:
    """The part of a loop that timers use, with time in the test's hands."""

    def __init__(self):
        self.now, self.timers = 100.0, []

    def time(self):
        return self.now

    def call_later(self, delay, callback):
        return self.call_at(self.now + delay, callback)

    def call_at(self, when, callback):
        loop = asyncio.get_event_loop_policy().new_event_loop()
        timer = asyncio.TimerHandle(when, callback, (), loop)
        loop.close()
        self.timers.append(timer)
        return timer

    def advance(self, seconds):
        self.now += seconds
        due = [timer for timer in self.timers if timer.when() <= self.now and not timer.cancelled()]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer._callback()


def a_clock() -> Any:
    """In place of a whole loop."""
    return Clock()


class Watched:
    last_activity = 100.0


def test_it_fires_once_after_the_timeout_without_activity():
    clock, fired = a_clock(), []
    IdleTimer(clock, 10, Watched(), lambda: fired.append(clock.now))
    clock.advance(9.9)
    assert fired == []
    clock.advance(0.1)
    clock.advance(100)
    assert fired == [110.0]


def test_activity_puts_it_off_by_the_rest_only():
    clock, fired, watched = a_clock(), [], Watched()
    IdleTimer(clock, 10, watched, lambda: fired.append(clock.now))
    watched.last_activity = 107.0
    clock.advance(10)
    assert fired == []
    clock.advance(6.9)
    assert fired == []
    clock.advance(0.1)
    assert fired == [pytest.approx(117.0)]


def test_activity_costs_no_timer():
    clock, watched = a_clock(), Watched()
    IdleTimer(clock, 10, watched, pytest.fail)
    for step in range(100):
        watched.last_activity = 100.0 + step / 100
    assert len(clock.timers) == 1


def test_without_a_timeout_and_after_cancel_it_never_fires():
    clock = a_clock()
    IdleTimer(clock, None, Watched(), pytest.fail).cancel()
    timer = IdleTimer(clock, 1, Watched(), pytest.fail)
    timer.cancel()
    timer.cancel()
    clock.advance(10)


def test_a_tcp_peer_sees_a_reset(pair):
    near, far = pair("tcp")
    close_with_reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)


def test_a_unix_peer_sees_a_reset_if_bytes_of_its_are_unread(pair):
    near, far = pair("unix")
    far.send(b"unread")
    close_with_reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)


def test_a_socket_that_is_broken_already_is_closed_all_the_same():
    near = socket.socket()
    close_with_reset(near)
    assert near.fileno() == -1


@pytest.mark.parametrize(
    ("error", "text"),
    [(ConnectionResetError(104, "whatever"), "connection reset by peer"), (ValueError("odd"), "ValueError: odd")],
)
def test_an_error_is_described_in_few_words(error, text):
    assert describe(error) == text
