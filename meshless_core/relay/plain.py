"""The engine for two plain descriptors: recv and send through one shared buffer, and `splice` for bulk.

Each direction is a `_Flow`. A flow reads its source once per event and sends what it got at once. What the sink does not take
is kept, and the source is not read until it is gone: that is the back-pressure, and it bounds the memory (`PENDING_BOUND`).

How a connection ends, in the words of its two sockets A and B (`docs/explanation/relay.md`, ADR-0060):

* end-of-file on A: once everything A sent is delivered, B's receiving side sees end-of-file; the other direction lives on;
* end-of-file on both: closed;
* A broke off (a reset, or a write to it says that nobody reads): B is not read any more, what A had sent is delivered, then
  B is reset.

It must not interpret a byte.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Final

from meshless_core.relay.ending import IdleTimer, close_with_reset, closed_already, describe
from meshless_core.relay.interface import MAX_REASON_CHARS, EndedBy, OnClose, Outcome, Relay, RelayResult
from meshless_core.relay.pipes import PIPE_BYTES, Pipe
from meshless_core.relay.reactor import SCRATCH_BYTES, Reactor

__all__ = ["PENDING_BOUND", "relay_plain"]

PENDING_BOUND: Final = max(SCRATCH_BYTES, PIPE_BYTES)
"""Most bytes one direction of one connection holds, in this process or in its pipe. A connection: twice that."""

SPLICE_AFTER: Final = 512 * 1024
"""Bytes a direction moves in full reads in a row before it is taken for bulk and spliced."""

FULL_READ: Final = 32 * 1024
"""A read of at least this many bytes is a full one."""

SMALL_READS: Final = 16
"""So many reads in a row that are not full end the splicing."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_HUNG_UP: Final = select.EPOLLHUP
_ERROR: Final = select.EPOLLERR
_GONE: Final = _HUNG_UP | _ERROR
_UNREGISTERED: Final = -1
_family_of: Final = socket.SocketType.family.__get__  # the number; `socket.family` makes an enum of it, at some microseconds
# SPLICE_F_MOVE | SPLICE_F_NONBLOCK: the `os` module has no names for them before Python 3.14.
_SPLICE_FLAGS: Final = 3


class _Flow:
    """One direction: what `source` sends goes to `sink`. `twin` is the other direction.

    It handles the events of its source's descriptor; an `EPOLLOUT` there is for the twin, which writes to that descriptor.
    """

    __slots__ = (
        "_bulk",
        "_recv_into",
        "_relay",
        "_scratch",
        "_send",
        "_splicing",
        "broken",
        "count",
        "eof",
        "fd",
        "hung_up",
        "mask",
        "pending",
        "pipe",
        "side",
        "sink",
        "source",
        "twin",
    )

    twin: _Flow

    def __init__(
        self, relay: _PlainRelay, side: EndedBy, source: socket.socket, sink: socket.socket, early: bytes, *, may_splice: bool
    ) -> None:
        self.side = side  # which end the source is
        self.source = source
        self.sink = sink
        self.fd = source.fileno()
        self.count = 0
        self.pending = early
        self.pipe: Pipe | None = None
        self.eof = False  # the source has ended, nothing more is read
        self.hung_up = False  # and its peer is gone as a whole: nothing can be delivered to it either
        self.broken = False  # the sink takes nothing any more
        self.mask = _UNREGISTERED  # what the reactor watches the source for
        self._relay = relay
        self._recv_into = source.recv_into
        self._send = sink.send
        self._scratch = relay.reactor.scratch
        # While copying: bytes moved in full reads in a row, -1 if it must not splice. While splicing: small moves in a row.
        self._bulk = 0 if may_splice else -1
        self._splicing = False

    # --- the fast path -------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """Handle the events of the source's descriptor: copy what is there."""
        if events != _IN and not self._readable(events):
            return
        try:
            size = self._recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError as error:
            self._source_failed(error)
            return
        if not size:
            self.hung_up = bool(events & _HUNG_UP)
            self._source_ended()
            return
        relay = self._relay
        relay.last_activity = relay.reactor.now
        try:
            sent = self._send(self._scratch[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._sink_failed(error)
            return
        self.count += sent
        if sent != size:
            self.pending = bytes(self._scratch[sent:size])
            self.watch()
            self.twin.watch()
        if size >= FULL_READ and self._bulk >= 0:
            self._bulk += size
            if self._bulk >= SPLICE_AFTER and not self.pending:
                self._start_splicing()
        elif self._bulk > 0:
            self._bulk = 0

    def ready_splicing(self, events: int) -> None:
        """Handle the events of the source's descriptor: move what is there through the pipe (empty when it is read)."""
        if events != _IN and not self._readable(events):
            return
        pipe = self.pipe
        assert pipe is not None  # this handler is only installed together with a pipe
        try:
            size = os.splice(self.fd, pipe.writer, PIPE_BYTES, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL:  # this kernel does not splice this socket; not a byte has moved
                self._stop_splicing(for_good=True)
            else:
                self._source_failed(error)
            return
        if not size:
            self.hung_up = bool(events & _HUNG_UP)
            self._source_ended()
            return
        pipe.held = size
        self._relay.last_activity = self._relay.reactor.now
        if not self._push(pipe):
            return
        if pipe.held or self.pending:
            self.watch()
            self.twin.watch()
        if size >= FULL_READ:
            self._bulk = 0
        else:
            self._bulk += 1
            if self._bulk >= SMALL_READS and not pipe.held:
                self._stop_splicing(for_good=False)

    def _push(self, pipe: Pipe) -> bool:
        """Move the pipe's bytes on; False if the sink failed (the relay may be over then)."""
        sink = self.twin.fd
        while pipe.held:
            try:
                moved = os.splice(pipe.reader, sink, pipe.held, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EINVAL:
                    self._sink_failed(error)
                    return False
                # The kernel does not splice to this socket: take the bytes out of the pipe and copy from now on.
                self.pending = os.read(pipe.reader, pipe.held)
                pipe.held = 0
                self._stop_splicing(for_good=True)
                break
            pipe.held -= moved
            self.count += moved
        return True

    # --- everything that is not fast -----------------------------------------------------------------------------------

    def _readable(self, events: int) -> bool:
        """Deal with all events but `EPOLLIN`; whether the source is to be read now."""
        if events & (_OUT | _GONE) and self.mask & _OUT:
            self.twin.flush()
            if self._relay.closed:
                return False
        if self.mask & _IN:
            return bool(events & (_IN | _GONE))
        if events & _GONE and not self.mask:
            # Nothing is wanted of this end now, and a hang-up would be reported for ever; `watch` comes back to it.
            self._relay.reactor.remove(self.fd)
            self.mask = _UNREGISTERED
            self._relay.tell_hang_up(self.side)
            if self.eof:
                self._gone_after_its_end(events)
        return False

    def _gone_after_its_end(self, events: int) -> None:
        """The source, which had only stopped sending, is gone as a whole now."""
        error = self.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _ERROR else 0
        self.hung_up = bool(events & _HUNG_UP)
        if error:
            self._source_failed(OSError(error, os.strerror(error)))
        elif not self.holds():
            self._relay.delivered(self)

    def flush(self) -> None:
        """Deliver what is kept; when it is gone, hand on an end-of-file or read the source again."""
        before = self.count
        if self.pipe is not None and not self._push(self.pipe):
            return
        if self.pending:
            try:
                sent = self._send(self.pending)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._sink_failed(error)
                return
            self.count += sent
            self.pending = self.pending[sent:]
        if self.count != before:
            self._relay.last_activity = self._relay.reactor.now
        if self.eof and not self.holds():
            self._relay.delivered(self)
        if not self._relay.closed:
            self.watch()
            self.twin.watch()

    def has_more(self) -> bool:
        """Whether bytes are kept, or wait unread at the source."""
        if self.holds():
            return True
        if self.eof:
            return False
        try:
            return bool(self.source.recv(1, socket.MSG_PEEK))
        except OSError:  # nothing there, or broken as well: there is nothing to lose
            return False

    def holds(self) -> bool:
        """Whether bytes were read that are not delivered."""
        return bool(self.pending) or (self.pipe is not None and self.pipe.held > 0)

    def watch(self) -> None:
        """Tell the reactor what this flow's source is wanted for: reads of ours, writes of the twin's."""
        mask = 0 if self.eof or self.broken or self.holds() else _IN
        if self.twin.holds():
            mask |= _OUT
        if mask == self.mask or (mask == 0 and self.mask == _UNREGISTERED):
            return
        if self.mask == _UNREGISTERED:
            handler = self.ready_splicing if self._splicing else self.ready
            self._relay.reactor.add(self.fd, mask, handler, self._relay.failed)
        else:
            self._relay.reactor.modify(self.fd, mask)
        self.mask = mask

    def _source_ended(self) -> None:
        self.eof = True
        self._relay.ended_first = self._relay.ended_first or self.side
        if self.hung_up:
            self._relay.tell_hang_up(self.side)
        self.flush()

    def _source_failed(self, error: OSError) -> None:
        """The source broke off: deliver what it had sent, then reset the sink."""
        self._relay.broke_off(self.side, error)
        self.eof = True
        self.twin.give_up()
        self.flush()

    def _sink_failed(self, error: OSError) -> None:
        """Nobody takes this flow's bytes any more: deliver what the sink's end had sent, then reset the source."""
        self._relay.broke_off(self.twin.side, error)
        self.give_up()
        if self.twin.broken or (self.twin.eof and not self.twin.holds()):
            self._relay.finish_reset()
            return
        self.watch()
        self.twin.watch()

    def give_up(self) -> None:
        """Throw away what this flow holds and read no more."""
        self.broken = True
        self.pending = b""
        if self._splicing:
            self._stop_splicing(for_good=True)
        if self.source.family == socket.AF_UNIX:
            # A writer at the other end learns it at once (EPIPE), as it would without us. TCP has no such message.
            with contextlib.suppress(OSError):  # it is gone already: then it needs no message
                self.source.shutdown(socket.SHUT_RD)

    def _start_splicing(self) -> None:
        self.pipe = self._relay.reactor.pipes.take()
        if self.pipe is None:
            self._bulk = 0
            return
        self._bulk = 0
        self._splicing = True
        self._relay.reactor.modify(self.fd, self.mask, self.ready_splicing)

    def _stop_splicing(self, *, for_good: bool) -> None:
        """Back to copying. The pipe is empty or its bytes are unwanted."""
        self._bulk = -1 if for_good else 0
        self._splicing = False
        self.drop_pipe()
        if self.mask != _UNREGISTERED:
            self._relay.reactor.modify(self.fd, self.mask, self.ready)

    def drop_pipe(self) -> None:
        """Return the pipe to the pool."""
        if self.pipe is not None:
            self._relay.reactor.pipes.give_back(self.pipe)
            self.pipe = None


class _PlainRelay:
    """The two flows of one connection and how it ends."""

    __slots__ = (
        "_broken_by",
        "_idle",
        "_moved",
        "_on_close",
        "_on_hang_up",
        "_reason",
        "_to_client",
        "_to_service",
        "closed",
        "ended_first",
        "last_activity",
        "reactor",
    )

    def __init__(
        self,
        reactor: Reactor,
        client: socket.socket,
        service: socket.socket,
        early: bytes,
        idle_timeout: float | None,
        on_close: OnClose,
        on_hang_up: Callable[[], None] | None,
    ) -> None:
        self.reactor = reactor
        self.last_activity = reactor.loop.time()
        self.closed = False
        self.ended_first: EndedBy | None = None
        self._broken_by: EndedBy | None = None
        self._reason = ""
        self._moved = (0, 0)  # to service, to client; set at the end
        self._on_close = on_close
        self._on_hang_up = on_hang_up
        # splice wins between Unix sockets and loses to TCP (ADR-0061).
        may_splice = _family_of(client) == socket.AF_UNIX and _family_of(service) == socket.AF_UNIX
        self._to_service = _Flow(self, "client", client, service, early, may_splice=may_splice)
        self._to_client = _Flow(self, "service", service, client, b"", may_splice=may_splice)
        self._to_service.twin = self._to_client
        self._to_client.twin = self._to_service
        self._to_service.watch()
        self._to_client.watch()
        # Last: if the kernel does not watch an end there is no relay, and no timer may be left that ends it a second time.
        self._idle = None if idle_timeout is None else IdleTimer(reactor.loop, idle_timeout, self, self._idle_too_long)

    @property
    def bytes_to_service(self) -> int:
        return self._moved[0] if self.closed else self._to_service.count

    @property
    def bytes_to_client(self) -> int:
        return self._moved[1] if self.closed else self._to_client.count

    def abort(self, reason: str) -> None:
        if not self.closed:
            self._finish("aborted", reason, "agent")

    def delivered(self, flow: _Flow) -> None:
        """Everything the source of `flow` sent before it ended has reached the sink's kernel."""
        if self._broken_by is not None:
            self.finish_reset()
            return
        twin = flow.twin
        if flow.hung_up and twin.has_more():
            self.broke_off(flow.side, BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            self.finish_reset()
            return
        if flow.hung_up or (twin.eof and not twin.holds()):
            self._finish("closed", "", self.ended_first or flow.side)  # closing says end-of-file too
            return
        try:
            flow.sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # its peer is gone as a whole: nobody is left to be told
                raise

    def tell_hang_up(self, side: EndedBy) -> None:
        """The application behind an end is gone as a whole, though what it sent may still wait for the other end."""
        if side == "service" and self._on_hang_up is not None:
            self._on_hang_up()

    def broke_off(self, side: EndedBy, error: OSError) -> None:
        """Remember who broke the connection off, and how."""
        if self._broken_by is None:
            self._broken_by = side
            self._reason = f"{side}: {describe(error)}"

    def finish_reset(self) -> None:
        """What could be delivered is delivered; reset."""
        self._finish("reset", self._reason, self._broken_by or "agent")

    def failed(self, error: Exception) -> None:
        """A handler raised: a bug of ours; this connection pays for it, no other."""
        if not self.closed:
            self._finish("error", f"internal error: {describe(error)}", "agent")

    def _idle_too_long(self) -> None:
        if not self.closed:
            assert self._idle is not None  # it is what calls this
            self._finish("idle_timeout", f"no data in either direction for {self._idle.timeout:g} s", "agent")

    def _finish(self, outcome: Outcome, reason: str, ended_by: EndedBy) -> None:
        self._moved = (self._to_service.count, self._to_client.count)
        self.closed = True
        if self._idle is not None:
            self._idle.cancel()
        for flow in (self._to_service, self._to_client):
            self.reactor.forget(flow.fd)
            flow.drop_pipe()
            flow.pending = b""
        for flow in (self._to_service, self._to_client):
            if outcome == "closed":
                flow.source.close()
            else:
                close_with_reset(flow.source)
        # The flows refer to each other and to us, the agent's record to us: letting go leaves no cycle, so the memory of a
        # connection does not wait for the collector.
        on_close, self._on_close, self._on_hang_up = self._on_close, closed_already, None
        del self._to_service.twin, self._to_client.twin, self._to_service, self._to_client
        on_close(RelayResult(outcome, reason[:MAX_REASON_CHARS], ended_by, *self._moved))


def relay_plain(
    reactor: Reactor,
    client: socket.socket,
    service: socket.socket,
    *,
    early: bytes = b"",
    idle_timeout: float | None,
    on_close: OnClose,
    on_hang_up: Callable[[], None] | None = None,
) -> Relay:
    """Relay between two connected stream sockets until both directions are over.

    Args:
        reactor: the reactor to work in.
        client: the client's socket; it belongs to the relay from now on.
        service: the service's socket; likewise.
        early: bytes the client sent already; they are delivered first.
        idle_timeout: seconds without a byte in either direction after which it is cut, None for never.
        on_close: called exactly once, when both sockets are closed; never before this function returns.
        on_hang_up: called when the service is gone in both directions, before that; perhaps more than once.

    Returns:
        The running relay.

    Raises:
        OSError: the kernel does not watch one of the sockets; both are closed then.
    """
    for end in (client, service):
        if end.gettimeout() != 0.0:
            end.setblocking(False)
    try:
        return _PlainRelay(reactor, client, service, early, idle_timeout, on_close, on_hang_up)
    except OSError:
        for end in (client, service):
            reactor.remove(end.fileno())
            end.close()
        raise
