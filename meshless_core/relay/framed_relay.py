"""One connection inside a framed session: the plain end, and what its events and the peer's frames mean for each other.

The rules are those of `plain` (ADR-0060), with frames in place of one of the sockets: FIN is the end-of-file, RESET the reset,
GONE behind a FIN the hang-up of an end that closed as a whole, and END says that everything is delivered, so that the session
can carry the next connection.

It must not touch the stream: that is the session's.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Callable, Sequence
from os import strerror
from typing import TYPE_CHECKING, Final

from meshless_core.relay.ending import OUTCOME_OF, IdleTimer, broken_pipe, close_with_reset, closed_already, describe, to_nobody
from meshless_core.relay.frames_in_place import FRAME_BYTES, payload_slots, rest_of, write_headers
from meshless_core.relay.interface import MAX_REASON_CHARS, EndedBy, Outcome, RelayResult
from meshless_core.tunnel import HEADER_BYTES, MAX_DATA_BYTES, End, Event, Fin, Gone, Reset, ResetCode, State

if TYPE_CHECKING:
    from meshless_core.relay.framed import FramedSession

__all__ = ["FramedRelay"]

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_RDHUP: Final = select.EPOLLRDHUP
_HUNG_UP: Final = select.EPOLLHUP
_ERROR: Final = select.EPOLLERR
_GONE: Final = _HUNG_UP | _ERROR
_MAX_PARTS: Final = 64
"""Most pieces handed to one `sendmsg`. The kernel takes 1024 and refuses more; many small ones are quicker joined anyway."""

_UNREGISTERED: Final = -1


class FramedRelay:
    """Moves bytes between a plain socket and a session. Satisfies `Relay`."""

    __slots__ = (
        "_broken",
        "_bulk",
        "_delivered",
        "_ended",
        "_ended_first",
        "_fd",
        "_from_tunnel",
        "_hung_up",
        "_idle",
        "_mask",
        "_on_close",
        "_on_hang_up",
        "_payload",
        "_peer_ended",
        "_peer_gone",
        "_pending",
        "_plain",
        "_plain_eof",
        "_reactor",
        "_reason",
        "_recv_into",
        "_recvmsg_into",
        "_send",
        "_sendmsg",
        "_session",
        "_slots",
        "_to_tunnel",
        "_tunnel_eof",
        "_verdict",
        "closed",
        "early",
        "last_activity",
    )

    def __init__(
        self,
        session: FramedSession,
        plain: socket.socket,
        early: bytes,
        idle_timeout: float | None,
        on_close: Callable[[RelayResult, bool], None],
        on_hang_up: Callable[[], None] | None,
    ) -> None:
        plain.setblocking(False)
        reactor = session.reactor
        self.last_activity = reactor.loop.time()
        self.closed = False
        self.early = early
        self._reactor = reactor
        self._session = session
        self._plain = plain
        self._fd = plain.fileno()
        self._recv_into = plain.recv_into
        self._recvmsg_into = plain.recvmsg_into
        self._send = plain.send
        self._sendmsg = plain.sendmsg
        self._payload = reactor.scratch[HEADER_BYTES:FRAME_BYTES]
        self._slots: list[memoryview] = []  # where the payloads of several frames go, if they are read at once
        self._bulk = False  # the last read filled a frame: read several at once
        self._on_close = on_close
        self._on_hang_up = on_hang_up
        self._mask = _UNREGISTERED
        self._to_tunnel = 0
        self._from_tunnel = 0
        self._pending = b""  # from the tunnel, not taken by the plain end
        self._plain_eof = False  # FIN (or RESET) was sent
        self._tunnel_eof = False  # FIN was received
        self._delivered = False  # ... and the plain end was told
        self._ended = False  # END was sent
        self._peer_ended = False  # END was received
        self._broken = False  # the plain end takes nothing any more
        self._hung_up = False  # the plain end is closed: it, or the far one, is gone as a whole
        self._peer_gone = False  # GONE was received
        self._reason = ""
        self._ended_first: EndedBy | None = None
        self._verdict: tuple[Outcome, str, EndedBy] | None = None  # the tunnel is gone; holds once pending bytes are delivered
        self._idle = IdleTimer(reactor.loop, idle_timeout, self, self._idle_too_long)

    @property
    def bytes_to_service(self) -> int:
        """Payload bytes moved towards the service so far; live."""
        return self._to_tunnel if self._session.role == "client" else self._from_tunnel

    @property
    def bytes_to_client(self) -> int:
        """Payload bytes moved towards the client so far; live."""
        return self._from_tunnel if self._session.role == "client" else self._to_tunnel

    @property
    def holds(self) -> bool:
        """Whether the plain end has not taken everything: then the stream is not read."""
        return bool(self._pending)

    @property
    def _near(self) -> EndedBy:
        """Which side the plain end is."""
        return "client" if self._session.role == "client" else "service"

    @property
    def _far(self) -> EndedBy:
        return "service" if self._session.role == "client" else "client"

    def abort(self, reason: str) -> None:
        """Cut the connection and the session now."""
        if not self.closed:
            self._session.throw_away(ResetCode.ABORTED, reason, linger=False)
            self._finish("aborted", reason, "agent")

    # --- what the session calls ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the early bytes and begin to read."""
        early, self.early = self.early, b""
        scratch = self._reactor.scratch
        for at in range(0, len(early), MAX_DATA_BYTES):
            part = early[at : at + MAX_DATA_BYTES]
            scratch[HEADER_BYTES : HEADER_BYTES + len(part)] = part
            self._session.send(scratch[: self._session.protocol.frame_data(scratch, len(part))])
        self._to_tunnel += len(early)
        try:
            self.watch()
        except OSError as error:  # the kernel does not watch what we were given
            self._reactor.loop.call_soon(self.failed, error)

    def receive(self, events: Sequence[Event]) -> list[Event]:
        """Handle what came out of the tunnel; returns what came behind this connection's end."""
        payload: list[memoryview] = []
        for at, event in enumerate(events):
            if type(event) is memoryview:
                payload.append(event)
                continue
            if payload:
                self._deliver(payload)
                payload = []
            if type(event) is Fin:
                self._tunnel_eof = True
                self._ended_first = self._ended_first or self._far
                self._tell_plain_eof()
            elif type(event) is Gone:
                self._peer_gone = True
                self._follow_peer()
            elif type(event) is End:
                self._peer_ended = True
                self._check_done()
            elif type(event) is Reset:
                outcome = OUTCOME_OF[event.code]
                # After our GONE a reset says that bytes met nobody: who had left ended it, not who sent them.
                by = self._near if self._hung_up and self._ended_first == self._near else self._far
                self._tunnel_gone(outcome, event.reason, by if outcome == "reset" else "agent")
            if self.closed:
                return list(events[at + 1 :])
        if payload:
            self._deliver(payload)
        return []

    def tunnel_lost(self, reason: str, *, violation: bool) -> None:
        """The stream broke, or the peer violated the protocol; the session is dead."""
        if violation:
            self._tunnel_gone("error", reason, "agent")
        else:
            self._tunnel_gone("reset", reason, "tunnel")

    def watch(self) -> None:
        """Tell the reactor what the plain end is wanted for."""
        mask = 0 if self._plain_eof or self._session.unsent or self._verdict is not None else _IN | _RDHUP
        if self._pending:
            mask |= _OUT
        if mask == self._mask or (mask == 0 and self._mask == _UNREGISTERED) or self.closed or self._hung_up:
            return
        if self._mask == _UNREGISTERED:
            self._reactor.add(self._fd, mask, self._ready, self.failed)
        else:
            self._reactor.modify(self._fd, mask)
        self._mask = mask

    def failed(self, error: Exception) -> None:
        """A handler raised: a bug of ours; this connection pays for it, no other."""
        if not self.closed:
            self._session.throw_away(ResetCode.INTERNAL_ERROR, "internal error", linger=False)
            self._finish("error", f"internal error: {describe(error)}", "agent")

    # --- the plain end's events ----------------------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        """Handle the events of the plain descriptor."""
        if events != _IN and not self._readable(events):
            return
        try:
            size = self._recvmsg_into(self._slots)[0] if self._bulk else self._recv_into(self._payload)
        except BlockingIOError:
            return
        except OSError as error:
            self._plain_failed(error)
            return
        if not size:
            self._plain_ended(b"", events)
            return
        self.last_activity = self._reactor.now
        self._to_tunnel += size
        scratch = self._reactor.scratch
        session = self._session
        if size < MAX_DATA_BYTES:
            self._bulk = False
            end = session.protocol.frame_data(scratch, size)
        else:
            # from now on several frames are read at once, each behind the place of its header
            self._bulk = True
            self._slots = self._slots or payload_slots(scratch)
            end = write_headers(scratch, session.protocol.frame_data, size)
        if events != _IN and events & _RDHUP and size < MAX_DATA_BYTES:
            try:
                at_eof = not self._plain.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                at_eof = False
            except OSError as error:  # told once only: the next read would say end-of-file
                session.send(scratch[:end])
                self._plain_failed(error)
                return
            if at_eof:
                self._plain_ended(scratch[:end], events)  # FIN travels with the last bytes
                return
        session.send(scratch[:end])
        if session.unsent:
            self.watch()

    def _readable(self, events: int) -> bool:
        """Deal with all events but `EPOLLIN`; whether the plain end is to be read now."""
        if events & (_OUT | _GONE) and self._mask & _OUT:
            self._flush()
            if self.closed:
                return False
        if self._mask & _IN:
            return bool(events & (_IN | _RDHUP | _GONE))
        if events & _GONE and not self._mask:
            self._reactor.remove(self._fd)  # would be reported for ever; `watch` comes back to it
            self._mask = _UNREGISTERED
            self._gone_unread(events)
        return False

    def _gone_unread(self, events: int) -> None:
        """The plain end is gone while nothing is wanted of it: its end-of-file was read before, or the stream is full."""
        if events & _HUNG_UP:
            self._tell_hang_up()
        if not self._plain_eof or self._verdict is not None:
            return
        error = self._plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _ERROR else 0
        if error and not self._ended:
            self._plain_failed(OSError(error, strerror(error)))
        elif events & _HUNG_UP:
            if not self._ended:
                self._session.send(self._session.protocol.gone())
            self._hang_up()

    def _plain_ended(self, last: bytes | memoryview, events: int) -> None:
        """End-of-file on the plain end, which is gone as a whole if `events` say so; `last` is a frame still to be sent."""
        self._plain_eof = True
        session = self._session
        if self._broken:
            if last:
                session.send(last)
            self._finish_reset()
            return
        self._ended_first = self._ended_first or self._near
        hung_up = bool(events & _HUNG_UP)
        if hung_up and self._pending:
            if last:
                session.send(last)
            self._plain_refuses(broken_pipe())
            return
        frames = bytes(last) + session.protocol.fin()
        if self._delivered:
            frames += session.protocol.end()
            self._ended = True
        elif hung_up:
            frames += session.protocol.gone()
        session.send(frames)
        if hung_up:
            self._hang_up()
        else:
            self.watch()
        self._check_done()

    def _hang_up(self) -> None:
        """Close the plain end, which is read to its end: nobody is left there, or is to be left."""
        self._hung_up = True
        self._send = self._sendmsg = to_nobody
        if self._mask != _UNREGISTERED:
            self._reactor.remove(self._fd)
            self._mask = _UNREGISTERED
        self._plain.close()
        self._tell_hang_up()

    def _tell_hang_up(self) -> None:
        on_hang_up, self._on_hang_up = self._on_hang_up, None
        if on_hang_up is not None:
            on_hang_up()

    def _plain_failed(self, error: OSError) -> None:
        """The plain end broke off: reset the other."""
        if not self._broken:
            self._reason = f"{self._near}: {describe(error)}"
        self._finish_reset()

    def _finish_reset(self, by: EndedBy | None = None) -> None:
        self._session.throw_away(ResetCode.RESET, self._reason, linger=True)
        self._finish("reset", self._reason, by or self._near)

    # --- towards the plain end -----------------------------------------------------------------------------------------

    def _deliver(self, parts: list[memoryview]) -> None:
        """Hand payload to the plain end with one system call; what it does not take is kept."""
        if self._broken or self.closed:
            return
        if self._pending:
            self._pending += b"".join(parts)
            return
        if len(parts) > _MAX_PARTS:
            parts = [memoryview(b"".join(parts))]
        try:
            sent = self._send(parts[0]) if len(parts) == 1 else self._sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._plain_refuses(error)
            return
        self._from_tunnel += sent
        self.last_activity = self._reactor.now
        if sent != sum(map(len, parts)):
            self._pending = rest_of(parts, sent)
            self._session.set_reading(False)
            self.watch()

    def _flush(self) -> None:
        try:
            sent = self._send(self._pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._plain_refuses(error)
            return
        self._from_tunnel += sent
        self.last_activity = self._reactor.now
        self._pending = self._pending[sent:]
        if not self._pending:
            self._flushed()

    def _flushed(self) -> None:
        """Nothing is kept any more: go on with what waited for that."""
        if self._verdict is not None:
            self._finish(*self._verdict)
            return
        self._tell_plain_eof()
        if not self.closed:
            self.watch()
            self._session.set_reading(True)

    def _plain_refuses(self, error: OSError) -> None:
        """The plain end takes nothing any more: pass on what it had sent, then reset the other."""
        self._broken = True
        self._pending = b""
        self._reason = f"{self._near}: {describe(error)}"
        if self._verdict is not None:
            self._finish(*self._verdict)
        elif self._plain_eof:
            self._finish_reset()
        else:
            self.watch()
            self._session.set_reading(True)  # to throw away what comes, and to see the other agent go

    def _tell_plain_eof(self) -> None:
        """Hand on the peer's end-of-file once everything before it is delivered."""
        if not self._tunnel_eof or self._pending or self._delivered or self._broken:
            return
        self._delivered = True
        if not self._hung_up:
            try:
                self._plain.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # it is gone as a whole: nobody is left to be told
                    raise
        # Dead: the peer's RESET came in the same read, right behind its FIN. It is the next event, and what ends this.
        if self._plain_eof and self._session.protocol.local_state is not State.DEAD:
            self._session.send(self._session.protocol.end())
            self._ended = True
            self._check_done()
        self._follow_peer()

    def _follow_peer(self) -> None:
        """If the far end is gone as a whole and everything it sent is delivered: end the near one as the kernel would have."""
        dead = self._session.protocol.local_state is State.DEAD  # as above
        if not (self._peer_gone and self._delivered) or self._plain_eof or self._broken or self.closed or dead:
            return
        try:
            unread = self._plain.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            unread = b""
        except OSError as error:
            self._plain_failed(error)
            return
        if unread:  # closing over it makes a reset of it
            self._reason = f"{self._far}: {describe(broken_pipe())}"
            self._finish_reset(self._far)
            return
        self._plain_eof = self._ended = True
        self._session.send(self._session.protocol.fin() + self._session.protocol.end())
        self._hang_up()
        self._check_done()

    def _check_done(self) -> None:
        # Not `protocol.idle`: the protocol may be ahead by the events of one read; what counts is what was handled here.
        if self._ended and self._peer_ended:
            self._finish("closed", "", self._ended_first or self._near)

    # --- the end -------------------------------------------------------------------------------------------------------

    def _tunnel_gone(self, outcome: Outcome, reason: str, ended_by: EndedBy) -> None:
        """There is no tunnel any more: deliver what came through it, then reset the plain end."""
        self._session.close_stream()
        if self.closed or self._verdict is not None:
            return
        if not self._pending:
            self._finish(outcome, reason, ended_by)
            return
        self._verdict = (outcome, reason, ended_by)
        if self._plain.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):  # it is gone already: then it needs no message
                self._plain.shutdown(socket.SHUT_RD)
        self.watch()

    def _idle_too_long(self) -> None:
        if not self.closed:
            reason = f"no data in either direction for {self._idle.timeout:g} s"
            self._session.throw_away(ResetCode.IDLE_TIMEOUT, reason, linger=False)
            self._finish("idle_timeout", reason, "agent")

    def _finish(self, outcome: Outcome, reason: str, ended_by: EndedBy) -> None:
        self.closed = True
        self._idle.cancel()
        if not self._hung_up:  # else the number is somebody else's by now
            self._reactor.remove(self._fd)
        self._pending = b""
        self._on_hang_up = None
        reusable = outcome == "closed"
        if reusable:
            self._plain.close()
            self._session.finished()
        else:
            close_with_reset(self._plain)
        # The agent's record refers to this relay: letting go of it leaves no cycle, so memory does not wait for the collector.
        on_close, self._on_close = self._on_close, closed_already
        on_close(
            RelayResult(outcome, reason[:MAX_REASON_CHARS], ended_by, self.bytes_to_service, self.bytes_to_client), reusable
        )
