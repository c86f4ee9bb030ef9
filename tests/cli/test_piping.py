from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from meshless_core.cli.piping import Piped, pipe, reset


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


class Joined:
    """Two people, `left` and `right`, on the outer ends of two connections that `pipe` joins."""

    def __init__(self) -> None:
        self.left, inner_left = tcp_pair()
        self.right, inner_right = socket.socketpair()
        for end in (self.left, self.right, inner_left, inner_right):
            end.setblocking(False)
        self.inner = (inner_left, inner_right)

    def start(self) -> asyncio.Task[Piped]:
        return asyncio.create_task(pipe(*self.inner))


@pytest.fixture
def joined() -> Iterator[Joined]:
    both = Joined()
    yield both
    for end in (both.left, both.right):
        end.close()
    assert [end.fileno() for end in both.inner] == [-1, -1], "pipe closes its sockets"


async def read_all(end: socket.socket) -> bytes:
    parts = []
    while data := await asyncio.get_running_loop().sock_recv(end, 65536):
        parts.append(data)
    return b"".join(parts)


async def send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


@pytest.mark.parametrize("first", ["left", "right"])
async def test_half_close_passes_in_either_order_and_the_other_direction_goes_on(joined: Joined, first: str) -> None:
    one, other = (joined.left, joined.right) if first == "left" else (joined.right, joined.left)
    task = joined.start()
    await send(one, b"question")
    one.shutdown(socket.SHUT_WR)
    assert await read_all(other) == b"question"
    await send(other, b"answer")
    other.shutdown(socket.SHUT_WR)
    assert await read_all(one) == b"answer"
    sent, received = (8, 6) if first == "left" else (6, 8)
    assert await task == Piped(True, sent, received)


async def test_bulk_both_ways_at_once_arrives_whole(joined: Joined) -> None:
    task = joined.start()
    there, back = bytes(range(256)) * 8192, bytes(range(255, -1, -1)) * 8192

    async def talk(end: socket.socket, data: bytes) -> None:
        await send(end, data)
        end.shutdown(socket.SHUT_WR)

    _, _, heard_right, heard_left = await asyncio.gather(
        talk(joined.left, there), talk(joined.right, back), read_all(joined.right), read_all(joined.left)
    )
    assert (heard_right, heard_left) == (there, back)
    assert await task == Piped(True, len(there), len(back))


async def test_a_reset_is_not_taken_for_an_end(joined: Joined) -> None:
    task = joined.start()
    await send(joined.right, b"never read")
    joined.left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    joined.left.close()
    assert not (await task).clean


async def test_a_peer_that_is_gone_resets_the_other_after_its_last_words_are_delivered(joined: Joined) -> None:
    await send(joined.right, b"last words")
    joined.right.close()
    task = joined.start()
    assert await asyncio.get_running_loop().sock_recv(joined.left, 100) == b"last words"
    await send(joined.left, b"nobody listens")
    assert not (await task).clean
    with pytest.raises(BrokenPipeError):  # what Linux makes of a reset behind an end-of-file
        await send(joined.left, b"x")


async def test_a_reader_that_never_reads_stops_the_writer(joined: Joined) -> None:
    task = joined.start()
    sent = 0
    idle = 0
    while idle < 100:  # many turns of the loop without room: nothing moves any more
        try:
            sent += joined.left.send(bytes(65536))
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
        assert sent < 64 * 2**20
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_resets_both_ends(joined: Joined) -> None:
    task = joined.start()
    await send(joined.left, b"hello")
    assert await asyncio.get_running_loop().sock_recv(joined.right, 5) == b"hello"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionResetError) as caught:
        await read_all(joined.left)
    assert caught.value.errno == errno.ECONNRESET


def test_reset_of_a_unix_socket_with_unread_bytes_is_seen_by_the_peer() -> None:
    near, far = socket.socketpair()
    with far:
        far.send(b"unread")
        reset(near)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
