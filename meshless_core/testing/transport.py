"""The contract of `SecureStream` as a function: give it a way to make connected pairs, it checks everything.

Used like this from any test framework::

    async def test_my_transport_keeps_the_contract():
        await check_transport(make_pair)

A broken promise is an `AssertionError` that names the promise. Nothing here knows how streams are made.
"""

from __future__ import annotations

import hashlib
import select
import time
from collections.abc import Awaitable, Callable
from typing import Final

from meshless_core.errors import TransportError
from meshless_core.hookspecs import SecureStream

__all__ = ["MakePair", "check_transport"]

MakePair = Callable[[], Awaitable[tuple[SecureStream, SecureStream]]]
"""Makes a connected pair: first the side that connected, then the side that accepted. Called several times."""

_PATIENCE: Final = 5000
"""Milliseconds to wait for a descriptor that has to become ready on a loopback connection."""

_MAX_BUFFERED: Final = 64 * 1024 * 1024
"""A writer whose peer never reads must be stopped before this many bytes, the kernel's socket buffers included."""


async def check_transport(make_pair: MakePair) -> None:
    """Check that streams keep the contract of `meshless_core.hookspecs.SecureStream`.

    Args:
        make_pair: makes a fresh connected pair; the check closes both ends.

    Raises:
        AssertionError: a promise is not kept; the message says which.
    """
    for check in (
        _check_names,
        _check_blocking,
        _check_small_reads,
        _check_pending,
        _check_bulk,
        _check_both_ways,
        _check_back_pressure,
        _check_end,
        _check_closed,
    ):
        one, other = await make_pair()
        try:
            check(one, other)
            check(other, one)
        except _Finished:
            pass
        finally:
            one.close()
            other.close()


class _Finished(Exception):  # noqa: N818 - no error: the pair is used up, do not check the other direction on it
    pass


def _check_names(one: SecureStream, other: SecureStream) -> None:
    assert one.peer == other.local, "each side must see the identity the other one presented"
    assert one.serial, "serial must name the credentials that were presented"
    assert one.expires > time.time(), "expires must be when the peer's leaf expires, which is not yet"
    assert one.fileno() >= 0, "fileno must be a descriptor"
    assert one.fileno() != other.fileno(), "the two ends must have descriptors of their own"


def _check_blocking(one: SecureStream, other: SecureStream) -> None:
    _settle(one)
    assert one.readinto(memoryview(bytearray(10))) is None, "readinto must return None when nothing has arrived"
    assert not one.pending(), "pending must be False when nothing has arrived"
    assert one.write(b"") in (0, None), "an empty write takes nothing"
    assert one.flush(), "flush must be True when nothing is left to send"
    _settle(other)


def _check_small_reads(one: SecureStream, other: SecureStream) -> None:
    for kind in (bytes, bytearray, memoryview):
        _send(one, kind(b"0123456789"))
    received = b"".join(_receive(other, 1) for _ in range(30))
    assert received == b"0123456789" * 3, "bytes must arrive in order, whatever the size of the reads"


def _check_pending(one: SecureStream, other: SecureStream) -> None:
    _send(one, b"a" * 1000)
    _send(one, b"b" * 1000)
    received = _receive(other, 10)
    while len(received) < 2000:
        if other.pending():
            buffer = memoryview(bytearray(7))
            count = other.readinto(buffer)
            assert count, "when pending is True, readinto must make progress"
            received += bytes(buffer[:count])
        else:
            assert _readable(other, _PATIENCE), "bytes are missing, yet neither pending nor the descriptor tells"
            received += _receive(other, 7)
    assert received == b"a" * 1000 + b"b" * 1000, "bytes must arrive in order"
    assert not other.pending(), "pending must be False when everything has been read"


def _check_bulk(one: SecureStream, other: SecureStream) -> None:
    _exchange(one, other, 3_000_017, 0)


def _check_both_ways(one: SecureStream, other: SecureStream) -> None:
    _exchange(one, other, 1_000_003, 2_000_003)


def _check_back_pressure(one: SecureStream, other: SecureStream) -> None:
    taken = 0
    block = bytes(65536)
    while taken < _MAX_BUFFERED:
        count = one.write(block)
        taken += count or 0
        if not one.flush() and not _writable(one, 0):
            break
    assert taken < _MAX_BUFFERED, "a writer whose peer does not read must be stopped, not buffered without bound"
    left = taken
    buffer = memoryview(bytearray(65536))
    while left:
        one.flush()
        count = other.readinto(buffer)
        assert count != 0, "the stream ended before everything taken was delivered"
        if count is None:
            assert _readable(other, _PATIENCE), "what a writer took must be deliverable once the peer reads"
        left -= count or 0


def _check_end(one: SecureStream, other: SecureStream) -> None:
    _send(one, b"last words")
    one.close()
    assert _receive(other, 10) == b"last words", "what was flushed before close must arrive"
    if not other.pending():
        assert _readable(other, _PATIENCE), "the end of the stream must make the descriptor readable"
    for _ in range(2):
        count = other.readinto(memoryview(bytearray(10)))
        assert count == 0, "readinto must return 0 at the end of the stream, and go on doing so"
    raise _Finished


def _check_closed(one: SecureStream, other: SecureStream) -> None:
    one.close()
    one.close()
    uses: tuple[Callable[[], object], ...] = (
        lambda: one.readinto(memoryview(bytearray(1))),
        lambda: one.write(b"x"),
        one.flush,
    )
    for use in uses:
        try:
            use()
        except (OSError, TransportError):
            continue
        raise AssertionError("a closed stream must refuse to be used, with OSError or TransportError")
    other.close()
    raise _Finished


def _exchange(one: SecureStream, other: SecureStream, forth: int, back: int) -> None:
    """Move `forth` bytes one way and `back` bytes the other at the same time; both must arrive unchanged."""
    flows = [_Flow(one, other, forth), _Flow(other, one, back)]
    while not all(flow.done for flow in flows):
        moved = [flow.step() for flow in flows]  # each of them, every time
        if not any(moved):
            poller = select.poll()
            for flow in flows:
                poller.register(flow.sink.fileno(), select.POLLIN | (0 if flow.sent == flow.size else select.POLLOUT))
            assert poller.poll(_PATIENCE), "bytes are under way, yet no descriptor becomes ready"
    for flow in flows:
        assert flow.hash_in.digest() == flow.hash_out.digest(), "bytes must arrive unchanged"


class _Flow:
    def __init__(self, source: SecureStream, sink: SecureStream, size: int) -> None:
        self.source, self.sink, self.size = source, sink, size
        self.sent = self.received = 0
        self.hash_in, self.hash_out = hashlib.sha256(), hashlib.sha256()
        self._pattern = bytes(range(251)) * 700
        self._buffer = memoryview(bytearray(100_000))

    @property
    def done(self) -> bool:
        return self.received == self.size and self.sent == self.size and self.source.flush()

    def step(self) -> bool:
        """Move what can be moved; False if nothing could."""
        moved = False
        if self.sent < self.size:
            block = memoryview(self._pattern)[self.sent % 251 :][: self.size - self.sent]
            count = self.source.write(block) or 0
            assert 0 <= count <= len(block), "write must return how many of the bytes it took"
            self.hash_in.update(block[:count])
            self.sent += count
            moved = bool(count)
        self.source.flush()
        got = self.sink.readinto(self._buffer) if self.received < self.size else None
        if got is not None:
            assert got, "the stream ended although nobody closed it"
            self.hash_out.update(self._buffer[:got])
            self.received += got
            moved = True
        return moved


def _send(stream: SecureStream, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]
        while not stream.flush():
            assert _writable(stream, _PATIENCE), "a stream whose flush is False must become writable"


def _receive(stream: SecureStream, size: int) -> bytes:
    """At least one and at most `size` bytes; waits for them."""
    buffer = memoryview(bytearray(size))
    while True:
        count = stream.readinto(buffer)
        if count is not None:
            assert count, "the stream ended although nobody closed it"
            return bytes(buffer[:count])
        assert not stream.pending(), "readinto returned None although pending was True"
        assert _readable(stream, _PATIENCE), "bytes were sent, yet the descriptor does not become readable"


def _settle(stream: SecureStream) -> None:
    """Let a stream take in what its protocol sent by itself; no application byte may be in it."""
    while _readable(stream, 0) or stream.pending():
        if stream.readinto(memoryview(bytearray(1))) is not None:
            raise AssertionError("a stream nobody wrote to must have nothing to read")


def _readable(stream: SecureStream, milliseconds: int) -> bool:
    poller = select.poll()
    poller.register(stream.fileno(), select.POLLIN)
    return bool(poller.poll(milliseconds))


def _writable(stream: SecureStream, milliseconds: int) -> bool:
    poller = select.poll()
    poller.register(stream.fileno(), select.POLLOUT)
    return bool(poller.poll(milliseconds))
