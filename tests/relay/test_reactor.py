"""The reactor: nobody gets another's event, one bug does not stop the others, asyncio keeps its turn."""

import asyncio
import logging
import os
import select
import socket

import pytest

from meshless_core.relay.reactor import Reactor

IN = select.EPOLLIN


async def settle(loop_turns=20):
    for _ in range(loop_turns):
        await asyncio.sleep(0)


async def test_a_ready_descriptor_calls_its_handler_with_its_events(reactor, pair):
    near, far = pair("unix")
    seen = asyncio.get_running_loop().create_future()

    def see(events: int) -> None:
        seen.set_result(events)
        reactor.remove(near.fileno())

    reactor.add(near.fileno(), IN, see)
    far.send(b"x")
    assert await asyncio.wait_for(seen, 20) == IN


async def test_a_handler_that_removes_and_closes_another_descriptor_of_the_batch_keeps_it_from_being_called(reactor, pair):
    (a, fa), (b, fb) = pair("unix"), pair("unix")
    called = []

    def handler(mine, other):
        def run(_events):
            called.append(mine)
            for end in (mine, other):
                reactor.remove(end.fileno())
            other.close()

        return run

    reactor.add(a.fileno(), IN, handler(a, b))
    reactor.add(b.fileno(), IN, handler(b, a))
    fa.send(b"x")
    fb.send(b"x")
    await settle()
    assert len(called) == 1


async def test_an_event_fetched_for_a_closed_descriptor_does_not_reach_the_one_that_reuses_its_number(reactor, pair):
    (a, fa), (b, fb) = pair("unix"), pair("unix")
    newcomer_called: list[int] = []
    made: list[socket.socket] = []

    def replace(mine, other):
        def run(_events):
            number = other.fileno()
            reactor.remove(mine.fileno())
            reactor.remove(number)
            other.close()
            quiet, far = socket.socketpair()
            made.extend((quiet, far))
            if quiet.fileno() != number:
                os.dup2(quiet.fileno(), number)
                quiet.close()
                made.append(socket.socket(fileno=number))
            reactor.add(number, IN, newcomer_called.append)
            made.append(number)

        return run

    reactor.add(a.fileno(), IN, replace(a, b))
    reactor.add(b.fileno(), IN, replace(b, a))
    fa.send(b"x")
    fb.send(b"x")
    await settle()
    assert newcomer_called == []
    reactor.remove(made.pop())
    for end in made:
        end.close()


async def test_an_event_fetched_for_what_is_not_wanted_any_more_is_not_told(reactor, pair):
    (a, fa), (b, fb) = pair("unix"), pair("unix")
    told: list[int] = []

    def take_back(mine, other):
        def run(_events):
            told.append(mine.fileno())
            reactor.modify(mine.fileno(), 0)
            reactor.modify(other.fileno(), 0)

        return run

    reactor.add(a.fileno(), IN, take_back(a, b))
    reactor.add(b.fileno(), IN, take_back(b, a))
    fa.send(b"x")
    fb.send(b"x")
    await settle()
    assert len(told) == 1, "the other one's event was of the same batch"
    reactor.remove(a.fileno())
    reactor.remove(b.fileno())


async def test_a_handler_that_raises_loses_its_descriptor_is_logged_and_its_owner_is_told(reactor, pair, caplog):
    (a, fa), (b, fb) = pair("unix"), pair("unix")
    told: list[BaseException] = []
    served: list[bytes] = []
    boom = RuntimeError("boom")

    def fail(_events):
        raise boom

    reactor.add(a.fileno(), IN, fail, told.append)
    reactor.add(b.fileno(), IN, lambda _events: served.append(b.recv(1)))
    fa.send(b"x")
    fb.send(b"x")
    with caplog.at_level(logging.ERROR):
        await settle()
    assert told == [boom]
    assert "dropped" in caplog.text
    assert "boom" in caplog.text
    assert served == [b"x"]
    fb.send(b"y")
    await settle()
    assert served == [b"x", b"y"]
    assert told == [boom]
    reactor.remove(b.fileno())


async def test_neither_a_cancelled_future_in_a_handler_nor_an_owner_that_fails_too_ends_the_loop(reactor, pair, caplog):
    (a, fa), (b, fb) = pair("unix"), pair("unix")
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    told: list[BaseException] = []

    def fail_too(error: BaseException) -> None:
        told.append(error)
        raise RuntimeError("the owner's bug")

    reactor.add(a.fileno(), IN, lambda _events: cancelled.result(), told.append)
    reactor.add(b.fileno(), IN, lambda _events: 1 / 0, fail_too)
    fa.send(b"x")
    fb.send(b"x")
    with caplog.at_level(logging.ERROR):
        await settle()
    assert sorted(type(error).__name__ for error in told) == ["RuntimeError", "ZeroDivisionError"]
    assert "the owner's bug" in caplog.text
    assert len(reactor) == 0


async def test_a_descriptor_that_is_always_ready_does_not_keep_asyncio_from_its_turn(reactor, pair):
    near, far = pair("unix")
    calls = 0

    def never_reads(_events):
        nonlocal calls
        calls += 1

    reactor.add(near.fileno(), IN, never_reads)
    far.send(b"x")
    ticks = 0
    while calls < 1000:
        await asyncio.sleep(0)
        ticks += 1
        assert ticks < 100_000
    assert calls > ticks  # several batches per turn
    reactor.remove(near.fileno())


async def test_now_moves_on_with_the_batches(reactor, pair):
    near, far = pair("unix")
    before = reactor.now
    seen: list[float] = []

    def see(_events: int) -> None:
        near.recv(1)
        seen.append(reactor.now)

    reactor.add(near.fileno(), IN, see)
    far.send(b"x")
    await settle()
    assert seen
    assert seen[0] >= before
    assert abs(seen[0] - asyncio.get_running_loop().time()) < 5
    reactor.remove(near.fileno())


async def test_remove_is_idempotent_and_copes_with_a_descriptor_closed_before(reactor, pair):
    near, _far = pair("unix")
    number = near.fileno()
    reactor.add(number, IN, lambda _events: None)
    near.close()
    reactor.remove(number)
    reactor.remove(number)
    assert len(reactor) == 0


async def test_close_leaves_the_loop_even_from_a_handler_and_is_idempotent(pair):
    reactor = Reactor(asyncio.get_running_loop())
    near, far = pair("unix")
    reactor.add(near.fileno(), IN, lambda _events: reactor.close())
    far.send(b"x")
    await settle()
    reactor.close()
    assert len(reactor) == 0


async def test_a_descriptor_the_kernel_does_not_watch_is_an_error_and_leaves_nothing_behind(reactor, tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="not permitted"):
        reactor.add(file.fileno(), IN, lambda _events: None)
    assert len(reactor) == 0


async def test_a_closed_reactor_watches_nothing_more(pair):
    reactor = Reactor(asyncio.get_running_loop())
    near, _far = pair("unix")
    reactor.close()
    reactor.close()
    with pytest.raises(ValueError, match="closed epoll"):
        reactor.add(near.fileno(), select.EPOLLOUT, lambda _events: None)
    assert len(reactor) == 0
