"""How a connection's end is noticed, told and carried out: what the engines have in common about it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, Never, Protocol

from meshless_core.relay.interface import Outcome
from meshless_core.tunnel import ResetCode

__all__ = ["OUTCOME_OF", "IdleTimer", "broken_pipe", "close_with_reset", "closed_already", "describe", "to_nobody"]

OUTCOME_OF: Final[dict[ResetCode, Outcome]] = {
    ResetCode.RESET: "reset",
    ResetCode.ABORTED: "aborted",
    ResetCode.IDLE_TIMEOUT: "idle_timeout",
    ResetCode.PROTOCOL_ERROR: "error",
    ResetCode.INTERNAL_ERROR: "error",
    ResetCode.UNSUPPORTED_VERSION: "error",
}
"""What a RESET frame with this code means for the connection."""

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class _Active(Protocol):
    """Something with a time of last activity."""

    @property
    def last_activity(self) -> float: ...


class IdleTimer:
    """Fires once nothing has moved for `timeout` seconds.

    Lazy: activity only updates a float; the timer, when it comes due, looks at it and sleeps for the rest.
    """

    __slots__ = ("_handle", "_loop", "_on_idle", "_watched", "timeout")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float | None, watched: _Active, on_idle: Callable[[], None]
    ) -> None:
        """Start.

        Args:
            loop: the loop whose clock `watched.last_activity` is in.
            timeout: seconds; None never fires.
            watched: whose activity counts.
            on_idle: called once.
        """
        self.timeout = timeout
        self._loop = loop
        self._watched: _Active | None = watched
        self._on_idle: Callable[[], None] | None = on_idle
        self._handle: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._handle = loop.call_later(timeout, self._due)

    def cancel(self) -> None:
        """Never fire; lets go of what it watched, which refers to this timer: no cycle is left for the collector."""
        self._watched = self._on_idle = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _due(self) -> None:
        assert self.timeout is not None  # without one the timer is not started
        assert self._watched is not None  # a cancelled timer does not come due
        assert self._on_idle is not None
        at = self._watched.last_activity + self.timeout
        if at <= self._loop.time():
            self._handle = None
            self._on_idle()
        else:
            self._handle = self._loop.call_at(at, self._due)


def close_with_reset(sock: socket.socket) -> None:
    """Close so that the peer sees a reset as far as the kernel lets us.

    TCP: `SO_LINGER` of 0 sends RST. Unix: the peer sees ECONNRESET if we leave bytes of its unread, else end-of-file on
    reading and EPIPE on writing; there is no other way (ADR-0060).
    """
    if sock.family != socket.AF_UNIX:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        except OSError:
            sock.close()  # the kernel has broken it off already: there is nobody left to reset
            return
    sock.close()


def closed_already(*_result: object) -> Never:
    """In place of `on_close` once it was called: a relay ends once.

    Raises:
        AssertionError: always.
    """
    raise AssertionError("a relay ends once")


def describe(error: BaseException) -> str:
    """An error in a few words for a reason: the system's text for an `OSError`, else type and message."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return f"{type(error).__name__}: {error}"


def broken_pipe() -> BrokenPipeError:
    """The error of a write that nobody will read."""
    return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def to_nobody(*_data: object) -> Never:
    """In place of `send` or `sendmsg` of a socket that is closed because its peer is gone: what the kernel would say.

    Raises:
        BrokenPipeError: always.
    """
    raise broken_pipe()
