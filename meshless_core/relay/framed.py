"""A secure session between two agents: it opens, relays one connection at a time, and is used again after a clean end.

The session owns its stream for life. What a broken stream, a violation or a RESET means for the connection being relayed is
decided here; what bytes of the plain end mean is decided in `framed_relay`. Works with any `SecureStream` and knows no TLS.
It must not wait: every call returns at once, and answers come by callback from the reactor.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from meshless_core.errors import LocalProtocolError, RemoteProtocolError, TransportError
from meshless_core.hookspecs import SecureStream
from meshless_core.relay.ending import describe
from meshless_core.relay.framed_relay import FramedRelay
from meshless_core.relay.interface import MAX_REASON_CHARS, Relay, RelayResult
from meshless_core.relay.reactor import SCRATCH_BYTES, Reactor
from meshless_core.tunnel import (
    HEADER_BYTES,
    Event,
    OpenReply,
    OpenRequest,
    Reset,
    ResetCode,
    State,
    TunnelSession,
)
from meshless_core.tunnel.frames import encode_reset
from meshless_core.types import ReplyCode

__all__ = ["FRAMED_PENDING_BOUND", "FramedSession", "SessionState"]

FRAMED_PENDING_BOUND: Final = 2 * SCRATCH_BYTES + 4 * HEADER_BYTES
"""Most bytes a session holds besides what its stream holds: one read of the stream that the plain end does not take, and the
frames of one read of the plain end, with FIN and END behind them, that the stream does not take."""

READS_PER_TURN: Final = 8
"""Most reads of a stream in one turn while it says that it holds more: then other connections have their turn."""

LINGER: Final = 5.0
"""Seconds the last frames of a broken-off connection may take to be delivered before the session is closed over them."""

SessionState = Literal["idle", "opening", "relaying", "dead"]

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_GONE: Final = select.EPOLLHUP | select.EPOLLERR
_UNREGISTERED: Final = -1

_log = logging.getLogger(__name__)


class FramedSession:
    """Owns a secure stream for its whole life; carries one connection at a time. All calls belong to the reactor's thread.

    Attributes:
        stream: the stream; its `peer`, `local` and `serial` say who talks.
        role: "client" on the agent that opens connections, "server" on the one that is asked.
        on_lost: called once with a reason if the session dies while no connection is relayed and no `open` waits for its reply
            (then the loss goes to `on_close` or `on_reply`). Not called by `close` and `abort`.
    """

    __slots__ = (
        "_events",
        "_fd",
        "_flush",
        "_linger",
        "_mask",
        "_on_open",
        "_on_reply",
        "_out",
        "_reading",
        "_readinto",
        "_relay",
        "_unsent",
        "_write",
        "on_lost",
        "protocol",
        "reactor",
        "role",
        "state",
        "stream",
    )

    def __init__(
        self,
        reactor: Reactor,
        stream: SecureStream,
        *,
        role: Literal["client", "server"],
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Take over an established stream; it is watched from now on.

        Args:
            reactor: the reactor to work in.
            stream: authenticated; it belongs to the session from now on.
            role: "client" for the side that opened the stream.
            on_lost: see the class.

        Raises:
            OSError: the kernel does not watch the stream; it is closed then.
        """
        self.reactor = reactor
        self.stream = stream
        self.role: Literal["client", "server"] = role
        self.on_lost = on_lost
        self.state: SessionState = "idle"
        self.protocol = TunnelSession(role)
        self._relay: FramedRelay | None = None
        self._on_open: Callable[[OpenRequest], None] | None = None
        self._on_reply: Callable[[OpenReply | Exception], None] | None = None
        self._events: deque[Event] = deque()  # received before somebody is there to take them
        self._out = bytearray()  # bytes of frames the stream has not taken
        self._unsent = False  # the stream has not taken, or not sent, everything
        self._reading = True
        self._linger: asyncio.TimerHandle | None = None
        self._write = stream.write
        self._flush = stream.flush
        self._readinto = stream.readinto
        self._fd = stream.fileno()
        self._mask = _UNREGISTERED
        try:
            self._watch()
        except OSError:
            stream.close()
            raise
        if stream.pending():
            reactor.loop.call_soon(self._read)

    # --- what the agent calls ------------------------------------------------------------------------------------------

    def open(self, request: OpenRequest, on_reply: Callable[[OpenReply | Exception], None]) -> None:
        """Ask the server's agent for a connection.

        Args:
            request: what is wanted.
            on_reply: called exactly once, never before this returns, unless `close` or `abort` comes first: with the reply,
                or with a `TransportError` or `RemoteProtocolError` if the session broke. After `OK` call `relay`; after any
                other code the session is idle again.

        Raises:
            LocalProtocolError: not a client, not idle, or a value of `request` cannot be said in this protocol.
        """
        frame = self.protocol.open(request)
        self._on_reply = on_reply
        self.state = "opening"
        self.send(frame)

    def serve(self, on_open: Callable[[OpenRequest], None]) -> None:
        """Answer requests from now on.

        Args:
            on_open: called with each request; answer it with `reply`, at once or later. Not called while one is under way.

        Raises:
            LocalProtocolError: not a server.
        """
        if self.role != "server":
            raise LocalProtocolError("a client's session cannot serve: only the side that was connected to is asked")
        self._on_open = on_open
        if self._events:
            self.reactor.loop.call_soon(self._dispatch)

    def reply(self, reply: OpenReply) -> None:
        """Answer the request that `on_open` was called with. After `OK` call `relay`, else the session is idle again.

        Raises:
            LocalProtocolError: there is no request to answer (any more: see `on_lost`).
        """
        frame = self.protocol.reply(reply)
        if reply.code is ReplyCode.OK:
            self._set_reading(False)  # until there is a plain end to deliver to
        else:
            self.state = "idle"
        self.send(frame)

    def relay(
        self,
        plain: socket.socket,
        *,
        early: bytes = b"",
        idle_timeout: float | None,
        on_close: Callable[[RelayResult, bool], None],
        on_hang_up: Callable[[], None] | None = None,
    ) -> Relay:
        """Relay between `plain` and the tunnel until the connection is over.

        Args:
            plain: the client's socket (client role) or the service's (server role); it belongs to the relay from now on.
            early: bytes to send into the tunnel first.
            idle_timeout: seconds without a byte in either direction after which it is cut, None for never.
            on_close: called exactly once, never before this returns: how it ended, and whether the session can be used again
                (client: open the next one; server: it waits for the next request). If not, the session is closed already, or
                will be when its last frames are out.
            on_hang_up: called once if the application behind `plain` is gone in both directions before all is over: what it
                had sent may still be on its way. Not called if `on_close` comes first.

        Returns:
            The running relay.

        Raises:
            LocalProtocolError: no connection is open.
        """
        open_for_us = self.state == "dead" or self.protocol.local_state is State.TALKING or self._reset_follows()
        if self._relay is not None or not open_for_us:
            raise LocalProtocolError(f"a session that is {self.state} has no connection to relay: open one first")
        relay = FramedRelay(self, plain, early, idle_timeout, on_close, on_hang_up)
        self._relay = relay
        if self.state == "dead":  # it broke since the reply: the relay's `on_close` is where that is told
            self.reactor.loop.call_soon(self._lose, "the session broke before the relay began")
        else:
            self.state = "relaying"
            if early or self._events:
                self.reactor.loop.call_soon(self._start, relay)
            else:
                self._start(relay)
        return relay

    def abort(self, reason: str) -> None:
        """Tell the peer with a RESET frame if that needs no waiting, then close. A relay ends as `aborted`."""
        if self._relay is not None:
            self._relay.abort(reason)
        else:
            self.throw_away(ResetCode.ABORTED, reason, linger=False)

    def close(self) -> None:
        """Close the stream at once, unless last frames are on their way; idempotent.

        A relay ends as `aborted`; `on_lost` and `on_reply` are not called.
        """
        self.on_lost = None
        if self._relay is not None:
            self._relay.abort("the session was closed")
        self._on_reply = None
        if self._linger is None:
            self._die()

    # --- what the relay calls ------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Whether the stream still has to send: then the plain end is not read."""
        return self._unsent

    def send(self, frame: bytes | memoryview) -> None:
        """Put whole frames on the stream; what it does not take is kept. A loss is reported by callback, later."""
        if self._unsent:
            if self.state != "dead":
                self._out += frame
            return
        try:
            taken = self._write(frame) or 0
            if taken == len(frame):
                if self._flush():
                    return
            else:
                self._out += memoryview(frame)[taken:]
        except (OSError, TransportError) as error:
            self.reactor.loop.call_soon(self._lose, describe(error))
        self._unsent = True
        self._watch()

    def set_reading(self, reading: bool) -> None:
        """Read the stream, or leave its bytes in the kernel: back-pressure towards the peer."""
        if reading is not self._reading and self.state != "dead":
            self._set_reading(reading)
            if reading and self.stream.pending():
                self.reactor.loop.call_soon(self._read)

    def throw_away(self, code: ResetCode, reason: str, *, linger: bool) -> None:
        """End the session with RESET.

        Args:
            code: why.
            reason: likewise, for people.
            linger: whether frames that are not delivered yet may take `LINGER` seconds; else they are lost.
        """
        self.on_lost = self._on_reply = None
        if self.state == "dead":
            return
        frame = self.protocol.reset(code, reason)
        self._bury(frame, linger=linger)

    def close_stream(self) -> None:
        """The session is over and its relay knows: close the stream without a word."""
        self._relay = self.on_lost = None
        self._die()

    def finished(self) -> None:
        """The relay ended cleanly: the session is idle again."""
        self._relay = None
        self.state = "idle"
        self.set_reading(True)

    # --- the stream ----------------------------------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        """Handle the events of the stream's descriptor."""
        if events != _IN and self._unsent and events & (_OUT | _GONE):
            self._send_rest()
        if self._reading:
            if events & (_IN | _GONE):
                self._read()
        elif events & _GONE and not self._mask:
            # A hang-up would be reported for ever. What it means is learnt when the stream is read again.
            self.reactor.remove(self._fd)
            self._mask = _UNREGISTERED

    def _read(self) -> None:
        scratch = self.reactor.scratch
        for _ in range(READS_PER_TURN):
            if not self._reading:
                return
            try:
                size = self._readinto(scratch)
                if size is None:
                    return
                if not size:
                    self._lose("the other agent closed the session")
                    return
                if self._linger is not None:
                    continue  # of no interest, but closing over it would take back what is not delivered yet
                events = self.protocol.receive(scratch[:size])
            except RemoteProtocolError as error:
                self._violated(error)
                return
            except (OSError, TransportError) as error:
                self._lose(describe(error))
                return
            relay = self._relay
            if relay is not None and not self._events:
                events = relay.receive(events)
            if events:
                # Views are of the scratch buffer: they are copied to stay.
                self._events.extend(memoryview(bytes(e)) if isinstance(e, memoryview) else e for e in events)
                self._dispatch()
            if self.state == "dead" or not self.stream.pending():
                return
        self.reactor.loop.call_soon(self._read)

    def _dispatch(self) -> None:
        """Handle what came while no connection is relayed."""
        while self._events and self._relay is None:
            match self._events[0]:
                case OpenRequest() as request:
                    if self._on_open is None:
                        self._set_reading(False)  # until `serve`
                        return
                    self._events.popleft()
                    if self._reset_follows():
                        continue  # taken back already: nobody is there to be answered
                    self.state = "opening"
                    self.set_reading(True)  # to learn that the client's agent gave up
                    self._on_open(request)
                case OpenReply() as reply:
                    self._events.popleft()
                    if reply.code is ReplyCode.OK:
                        self._set_reading(False)  # until there is a plain end to deliver to
                    elif not self._reset_follows():
                        self.state = "idle"
                    on_reply, self._on_reply = self._on_reply, None
                    assert on_reply is not None  # the protocol admits a reply only after `open`
                    on_reply(reply)
                case Reset() as reset:
                    self._lose(f"the other agent reset the session: {reset.reason}")
                case _:
                    return  # application bytes behind OPENED, waiting for `relay`

    def _reset_follows(self) -> bool:
        """Whether a RESET was read together with the event that is handled now, so that the protocol is ahead of us: dead."""
        return self.protocol.local_state is State.DEAD and any(type(event) is Reset for event in self._events)

    def _start(self, relay: FramedRelay) -> None:
        """Begin: first what is there already, in order, then what comes."""
        if self._relay is not relay or self.state == "dead":
            return
        if not self._reset_follows():
            relay.start()
        events = list(self._events)
        self._events.clear()
        rest = relay.receive(events)
        if rest:
            self._events.extend(rest)
            self._dispatch()
        elif self._relay is relay and not relay.holds:
            self.set_reading(True)

    def _send_rest(self) -> None:
        try:
            sent = self._push()
        except (OSError, TransportError) as error:
            self._lose(describe(error))
            return
        if sent:
            self._watch()
            if self._relay is not None:
                self._relay.watch()

    def _push(self) -> bool:
        """Give the stream what is kept; whether everything is sent."""
        while self._out:
            taken = self._write(self._out)
            if not taken:
                self._flush()
                return False
            del self._out[:taken]
        self._unsent = not self._flush()
        return not self._unsent

    def _set_reading(self, reading: bool) -> None:
        self._reading = reading
        self._watch()

    def _watch(self) -> None:
        """Tell the reactor what the stream is wanted for."""
        mask = (_IN if self._reading else 0) | (_OUT if self._unsent else 0)
        if mask == self._mask or (mask == 0 and self._mask == _UNREGISTERED):
            return
        if self._mask == _UNREGISTERED:
            self.reactor.add(self._fd, mask, self._ready, self._failed)
        else:
            self.reactor.modify(self._fd, mask)
        self._mask = mask

    # --- the end -------------------------------------------------------------------------------------------------------

    def _lose(self, reason: str) -> None:
        """The stream broke: whoever waits is told."""
        self._end(f"tunnel: {reason}", None)

    def _violated(self, error: RemoteProtocolError) -> None:
        _log.warning("session with %s: %s", self.stream.peer, error)
        self._end(str(error), error, encode_reset(ResetCode(error.code), str(error)))

    def _failed(self, error: Exception) -> None:
        """Our own handler raised: a bug; this session pays for it, no other."""
        if self._relay is not None:
            self._relay.failed(error)
        else:
            self._end(f"internal error: {describe(error)}", error, self.protocol.reset(ResetCode.INTERNAL_ERROR, ""))

    def _end(self, reason: str, error: Exception | None, frame: bytes = b"") -> None:
        """Close, with a last frame if there is one, and tell whoever waits: exactly one of them, exactly once."""
        reason = reason[:MAX_REASON_CHARS]
        relay, self._relay = self._relay, None
        on_reply, self._on_reply = self._on_reply, None
        on_lost, self.on_lost = self.on_lost, None
        self._bury(frame, linger=False)
        if relay is not None:
            relay.tunnel_lost(reason, violation=error is not None)
        elif on_reply is not None:
            on_reply(error or TransportError(reason, reason="session_lost"))
        elif on_lost is not None:
            on_lost(reason)

    def _bury(self, frame: bytes, *, linger: bool) -> None:
        """Dead from now on: send a last frame, and close; if it may linger, when the peer has closed or waiting is over."""
        if self.state == "dead" or not frame:
            self._die()
            return
        self.state = "dead"
        self._relay = None
        self._events.clear()
        try:
            self._out += frame
            self._unsent = not self._push()
        except (OSError, TransportError) as error:
            _log.debug("the peer cannot be told of the end, the session is broken: %s", describe(error))
            self._die()
            return
        if not linger:
            self._die()
            return
        self._linger = self.reactor.loop.call_later(LINGER, self._die)
        self.reactor.orphans.add(self._die)
        self._set_reading(True)

    def _die(self) -> None:
        self.state = "dead"
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
            self.reactor.orphans.discard(self._die)
        self._reading = False
        self._unsent = True  # nothing more is written
        self._out = bytearray()
        self._events.clear()
        self._on_open = None  # refers to the agent's record of this session: no cycle is left for the collector
        if self._mask != _UNREGISTERED:
            self.reactor.remove(self._fd)
            self._mask = _UNREGISTERED
        self.stream.close()
