"""The loop of an agent: asyncio's promises hold in it as in the standard one, and neither side gets the other's events."""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import threading

import pytest

from meshless_core.relay.loop import DataPathSelector
from meshless_core.relay.reactor import Reactor

IN = select.EPOLLIN


@pytest.fixture
def selector():
    made = DataPathSelector()
    yield made
    made.close()


@pytest.fixture
def ends():
    made = socket.socketpair()
    for end in made:
        end.setblocking(False)
    yield made
    for end in made:
        end.close()


def test_a_selector_keeps_the_standard_librarys_contract(selector, ends):
    near, far = ends
    key = selector.register(near, selectors.EVENT_READ, "data")
    assert (key.fileobj, key.fd, key.events, key.data) == (near, near.fileno(), selectors.EVENT_READ, "data")
    assert selector.get_key(near) is selector.get_map()[near.fileno()] is key
    assert list(selector.get_map()) == [near.fileno()]
    assert len(selector.get_map()) == 1
    assert selector.select(0) == []
    far.send(b"x")
    assert selector.select(None) == [(key, selectors.EVENT_READ)]
    both = selector.modify(near, selectors.EVENT_READ | selectors.EVENT_WRITE, "other")
    assert selector.select(1) == [(both, selectors.EVENT_READ | selectors.EVENT_WRITE)]
    assert selector.modify(near, both.events, "third").data == "third"
    assert selector.unregister(near).data == "third"
    assert selector.select(0) == []
    with pytest.raises(KeyError):
        selector.unregister(near)
    with pytest.raises(KeyError):
        selector.get_key(near)


@pytest.mark.parametrize("events", [0, 4, -1])
def test_events_that_do_not_exist_are_refused(selector, ends, events):
    with pytest.raises(ValueError, match="invalid events"):
        selector.register(ends[0], events)
    assert len(selector.get_map()) == 0


def test_a_second_registration_is_refused_and_a_closed_descriptor_can_be_taken_out(selector, ends):
    near, far = ends
    selector.register(near, selectors.EVENT_READ)
    with pytest.raises(KeyError, match="registered already"):
        selector.register(near.fileno(), selectors.EVENT_WRITE)
    number = near.fileno()
    near.close()
    assert selector.unregister(number).fd == number
    far.close()


def test_what_was_closed_before_it_was_taken_out_is_found_as_in_the_standard_selectors(selector, ends):
    near, far = ends
    selector.register(near, selectors.EVENT_READ)
    near.close()
    assert selector.get_key(near).fileobj is near
    selector.unregister(near)
    with open("/dev/null") as file:
        pass
    with pytest.raises(KeyError):
        selector.unregister(file)
    with pytest.raises(ValueError, match="invalid descriptor -1"):
        selector.register(near, selectors.EVENT_READ)
    selector.register(far, selectors.EVENT_READ)
    number = far.fileno()
    far.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        selector.modify(number, selectors.EVENT_WRITE)
    assert len(selector.get_map()) == 0, "the number is free for the next one"


def test_a_descriptor_registered_while_a_batch_runs_does_not_get_the_event_of_the_one_before_it(selector, ends):
    near, far = ends
    other, quiet = socket.socketpair()
    number = near.fileno()
    selector.epoll.register(number, IN)

    def replace(ready):
        if number in dict(ready) and near.fileno() == number:
            near.close()
            other_number = other.fileno()
            assert socket.socket(fileno=socket.dup(other_number)).detach() == number  # the lowest free number
            selector.register(number, selectors.EVENT_READ | selectors.EVENT_WRITE)
        return ready

    selector.attach(replace, ())
    far.send(b"x")
    assert selector.select(1) == []  # readable was the old one
    [(key, events)] = selector.select(1)
    assert (key.fd, events) == (number, selectors.EVENT_WRITE)
    selector.unregister(number)
    socket.close(number)
    other.close()
    quiet.close()


async def test_asyncio_and_a_reactor_each_get_their_own_events(ends):
    loop = asyncio.get_running_loop()
    reactor = Reactor(loop)
    near, far = ends
    data_near, data_far = socket.socketpair()
    seen = []
    reactor.add(data_near.fileno(), IN, lambda _events: seen.append(data_near.recv(8)))
    data_far.send(b"bytes")
    receiving = asyncio.create_task(loop.sock_recv(near, 8))
    await asyncio.sleep(0)
    far.send(b"control")
    async with asyncio.timeout(5):
        assert await receiving == b"control"
    assert seen == [b"bytes"]
    reactor.close()
    data_far.send(b"nobody is told")
    await asyncio.sleep(0.01)
    assert seen == [b"bytes"]
    data_near.close()
    data_far.close()


async def test_a_socket_closed_under_a_cancelled_call_of_asyncio_takes_no_reactor_its_number(ends):
    loop = asyncio.get_running_loop()
    reactor = Reactor(loop)
    near, _far = ends
    number = near.fileno()
    receiving = asyncio.create_task(loop.sock_recv(near, 8))
    await asyncio.sleep(0)
    receiving.cancel()
    near.close()
    data_near, data_far = socket.socketpair()
    assert number in (data_near.fileno(), data_far.fileno())
    if data_far.fileno() == number:
        data_near, data_far = data_far, data_near
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    reactor.add(number, IN, lambda _events: seen.put_nowait(data_near.recv(8)))
    with pytest.raises(asyncio.CancelledError):
        await receiving
    data_far.send(b"bytes")
    async with asyncio.timeout(5):
        assert await seen.get() == b"bytes"
    reactor.close()
    data_near.close()
    data_far.close()


async def test_two_reactors_in_one_loop_do_not_disturb_each_other(ends):
    loop = asyncio.get_running_loop()
    one, two = Reactor(loop), Reactor(loop)
    near, far = ends
    seen: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    one.add(near.fileno(), IN, lambda _events: seen.put_nowait((1, near.recv(8))))
    two.add(far.fileno(), IN, lambda _events: seen.put_nowait((2, far.recv(8))))
    near.send(b"a")
    far.send(b"b")
    async with asyncio.timeout(5):
        assert {await seen.get(), await seen.get()} == {(1, b"b"), (2, b"a")}
    one.close()
    near.send(b"c")
    async with asyncio.timeout(5):
        assert await seen.get() == (2, b"c")
    two.close()


async def test_a_busy_data_path_lets_timers_and_other_threads_through(ends):
    loop = asyncio.get_running_loop()
    reactor = Reactor(loop, budget=0.001)
    near, far = ends
    reactor.add(near.fileno(), IN, lambda _events: None)  # never reads: always ready
    far.send(b"x")
    async with asyncio.timeout(5):
        await asyncio.sleep(0.005)
        told = asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(told.set,))
        thread.start()
        await told.wait()
        thread.join()
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
    reactor.close()


async def test_what_a_handler_schedules_happens_although_nothing_else_does(ends):
    loop = asyncio.get_running_loop()
    reactor = Reactor(loop)
    near, far = ends
    soon, later = asyncio.Event(), asyncio.Event()

    def handle(_events):
        near.recv(8)
        loop.call_soon(soon.set)
        loop.call_later(0.001, later.set)

    reactor.add(near.fileno(), IN, handle)
    far.send(b"x")
    async with asyncio.timeout(5):
        await soon.wait()
        await later.wait()
    reactor.close()


async def test_streams_and_tls_work_in_it(tls_contexts):
    client_context, server_context = tls_contexts

    async def echo(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context)
    payload = bytes(range(256)) * 4096
    writing = asyncio.create_task(writer.drain())
    writer.write(payload)
    async with asyncio.timeout(20):
        assert await reader.readexactly(len(payload)) == payload
        await writing
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
