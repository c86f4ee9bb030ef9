"""Puts a handshake's filter between a client and the relay, for protocols that can change their target on a connection.

The relay gets one end of a socket pair instead of the client; here the client's bytes go through the filter into the other end,
and the service's bytes come back untouched. Always correct, one more copy: only such protocols pay for it. Memory is bounded:
neither side is read while the other does not take what it got. So is the time a filter takes in one go, however small the
pieces are that a client makes it look at: other connections get their turn in between. The connection is listed until its last
byte has reached the client, as without a filter. An end that breaks off is shown to the relay as one (what it had sent is
delivered, it is sent no more), so that both applications see what the relay alone would have shown them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import attrs

from meshless_core.agent.flags import Cut
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.errors import RemoteProtocolError
from meshless_core.hookspecs import FilteringHandshake
from meshless_core.relay import RelayResult, close_with_reset

__all__ = ["DELIVERY_SECONDS", "Booking", "Filter", "has_filter"]

logger = logging.getLogger(__name__)

DELIVERY_SECONDS: Final = 60.0
"""How long a client may take for what was under way when the service closed: at most two socket buffers."""

_DELIVERED: Final = frozenset({"closed", "reset"})
"""Outcomes before which the relay delivers what it has; the others cut at once."""
_READ_BYTES: Final = 64 * 1024
_SLICE_BYTES: Final = 4 * 1024  # one-byte chunks of HTTP cost a filter some 10 us each

Booking = Callable[[RelayResult], None]


@lru_cache(maxsize=64)
def has_filter(handshake: type) -> bool:
    """Whether a handshake's class has a filter; remembered, since asking a Protocol costs microseconds."""
    return hasattr(handshake, "filter_data")


class Filter:
    """One connection's filter.

    Args:
        runtime: the agent's shared state.
        client: the client's socket, owned and closed from now on.
        handshake: has the filter.
        connection_id: for the log.
        cut: ends the relay, given the class of the reason and its text; does nothing if it is over already.

    Raises:
        OSError: no descriptor is left; `client` stays the caller's.

    Attributes:
        end: the socket to relay instead of the client's; the relay's.
    """

    def __init__(
        self,
        runtime: AgentRuntime,
        client: socket.socket,
        handshake: FilteringHandshake,
        connection_id: bytes,
        cut: Callable[[Cut, str], None],
    ) -> None:
        self._inner, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._client = client
        self._handshake = handshake
        self._id = connection_id
        self._cut = cut
        self._budget: float = runtime.settings.relay_budget
        self._relayed = asyncio.Event()
        self._result: RelayResult | None = None
        self._book: Booking | None = None
        self._cutting = False
        self._clean = False
        self._task = runtime.spawn(self._run(), "filter")
        self._task.add_done_callback(self._over)

    def until_delivered(self, book: Booking) -> Booking:
        """What the relay is to call at its end, so that `book` is called when the client has got everything, or never will."""
        self._book = book
        return self._relay_over

    def _relay_over(self, result: RelayResult) -> None:
        self._result = result
        self._relayed.set()
        if self._task.done():
            self._tell()
        elif result.outcome not in _DELIVERED and not self._cutting:
            self._task.cancel()

    def _over(self, _task: asyncio.Task[None]) -> None:
        """Whatever ended it, also before its first step or in the middle of its last."""
        for end in (self._client, self._inner):
            if self._clean:
                end.close()
            else:
                close_with_reset(end)
        self._tell()

    def _tell(self) -> None:
        if self._result is not None and self._book is not None:
            book, self._book = self._book, None
            book(self._result)

    async def _run(self) -> None:
        forward = asyncio.create_task(self._forward(), name="filter-forward")
        backward = asyncio.create_task(self._backward(), name="filter-backward")
        relayed = asyncio.create_task(self._relayed.wait(), name="filter-relayed")
        running: set[asyncio.Task[Any]] = {forward, backward, relayed}
        try:
            while not relayed.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            async with asyncio.timeout(DELIVERY_SECONDS):
                await backward  # what the relay still had for the client; there is nobody to forward to any more
            assert self._result is not None  # the relay is over
            self._clean = self._result.outcome == "closed"
        except TimeoutError:
            assert self._result is not None  # that is when the time began
            reason = f"the client did not take its last bytes within {DELIVERY_SECONDS:g} s"
            self._result = attrs.evolve(self._result, outcome="error", reason=reason, ended_by="client")
        except RemoteProtocolError as error:
            logger.warning("connection %s is cut: %s", self._id.hex(), error)
            self._stop("client_error", f"the client's bytes are refused: {error}")
        except Exception as error:
            logger.exception("connection %s is cut: its handshake's filter failed", self._id.hex())
            self._stop("agent_error", f"internal error: {type(error).__name__} in the handshake's filter")
        finally:
            for task in (forward, backward, relayed):
                task.cancel()
            await asyncio.gather(forward, backward, relayed, return_exceptions=True)

    def _stop(self, cut: Cut, reason: str) -> None:
        self._cutting = True
        self._cut(cut, reason)

    async def _forward(self) -> None:
        """Filter the client's bytes and hand them to the relay, until the client ends or the service takes no more."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._client, _READ_BYTES)
            except OSError:  # it broke off: what it had sent is on its way, and it is sent no more
                _shut(self._inner, socket.SHUT_RDWR)
                return
            if allowed := await _allowed(data, self._handshake, self._budget):
                try:
                    await loop.sock_sendall(self._inner, allowed)
                except OSError:
                    _shut(self._client, socket.SHUT_RD)
                    return
            if not data:
                _shut(self._inner, socket.SHUT_RDWR if _has_hung_up(self._client) else socket.SHUT_WR)
                return

    async def _backward(self) -> None:
        """Hand the service's bytes to the client, until the relay ends or the client takes no more."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._inner, _READ_BYTES)
            except OSError:  # the relay is over, and had not read everything of the client's
                return
            if not data:
                _shut(self._client, socket.SHUT_WR)
                return
            try:
                await loop.sock_sendall(self._client, data)
            except OSError:
                _shut(self._inner, socket.SHUT_RD)
                return


async def _allowed(data: bytes, handshake: FilteringHandshake, budget: float) -> bytes:
    """What the filter lets through; takes `budget` seconds at most before others get their turn."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    parts = [handshake.filter_data(data[:_SLICE_BYTES])]
    for at in range(_SLICE_BYTES, len(data), _SLICE_BYTES):
        if loop.time() - began > budget:
            await asyncio.sleep(0)
            began = loop.time()
        parts.append(handshake.filter_data(data[at : at + _SLICE_BYTES]))
    return b"".join(parts)


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # the other side is gone already
        end.shutdown(how)


def _has_hung_up(end: socket.socket) -> bool:
    """Whether an end that reads as end-of-file is gone as a whole, not only done with sending."""
    poll = select.poll()
    poll.register(end, 0)  # POLLHUP is always reported
    return any(events & select.POLLHUP for _, events in poll.poll(0))
