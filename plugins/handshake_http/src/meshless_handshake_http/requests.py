"""Follows the requests on one client's connection, and lets through only whole ones for the service of the first.

The argument. An HTTP connection does not belong to a target: each request names its own, and a client that takes the mesh for
one server (a connection pool keyed by socket path, a proxy) may send two services' requests down one connection. The mesh has
connected it to the first one's service. So every later request is read as far as its head, and one that is for another service,
or that cannot be read in exactly one way, ends the connection before a byte of it has left.

How. `h11` follows heads and bodies; a fresh parser per request, since `h11` would wait for our response otherwise. The bytes go
on unchanged. What `h11` has not consumed is held back: an incomplete head, or the line of a chunk whose size is not known yet,
both bounded. What it has consumed belongs to a request that passed, and is let go at once, so bodies stream.

WebSocket. A request that asks for it is followed by frames if the server agrees, and by another request if it does not; only
the server knows. The bytes tell: a client's frame has the mask bit in its second byte (RFC 6455, section 5.2), and no request
has a byte above 127 there. Two bytes are held until that is clear. Any other protocol after `Upgrade` could be told from HTTP
by luck only: the connection is cut when its bytes are no request for this service.

This module must not do I/O, and must not parse HTTP: `h11` does, `head` judges.
"""

from __future__ import annotations

from typing import Final

import h11

from meshless_handshake_http.head import Head, RejectedRequestError, check_trailers, read_head

__all__ = ["RequestStream"]

_MASK_BIT: Final = 0x80
_VISIBLE: Final = bytes(range(0x21, 0x7F))  # what a request can begin with; holding anything else would only delay the no


class RequestStream:
    """One direction of one connection: bytes in, bytes that may be forwarded out. Not usable after it raised."""

    __slots__ = ("_after_websocket_request", "_first", "_head", "_held", "_max_head", "_opaque", "_parser")

    def __init__(self, max_head: int) -> None:
        """Start before the first request.

        Args:
            max_head: largest head in bytes; a chunk's line and trailers may not be larger either.
        """
        self._max_head = max_head
        self._parser = self._fresh_parser()
        self._first: Head | None = None
        self._head: Head | None = None  # of the request whose body is being read
        self._held = b""
        self._after_websocket_request = False
        self._opaque = False

    @property
    def first(self) -> Head | None:
        """The first request, whose service the connection belongs to; None until its head is complete."""
        return self._first

    def receive_data(self, data: bytes) -> bytes:
        """What may be forwarded now. A first request that is CONNECT is not forwarded itself, everything behind its head is.

        Args:
            data: the client's next bytes; b"" means end-of-file.

        Raises:
            RejectedRequestError: what came is not a request for the first one's service; nothing of `data` may be forwarded.
        """
        if self._opaque:
            return data
        if not data:
            return self._end()
        pending = self._held + data
        self._parser.receive_data(data)
        let_go = self._advance(pending)
        self._held = b"" if self._opaque else pending[let_go.stop :]
        if self._head is None and not self._after_websocket_request and self._held[:1] not in _VISIBLE:
            raise RejectedRequestError(
                "these bytes are no HTTP/1.1 request: use a tunnel (CONNECT or SOCKS5) for other protocols"
            )
        return pending[let_go]

    def _end(self) -> bytes:
        """The client's end-of-file. Inside a body it is the server's to judge: it sees that bytes are missing."""
        if self._head is None and (self._held or self._first is None):
            raise RejectedRequestError("the client ended its side in the middle of a request's head")
        return b""

    def _advance(self, pending: bytes) -> slice:
        """Run the parser as far as the bytes reach; the part of `pending` to let go."""
        done = 0  # where the last head or body in `pending` ends
        while True:
            if self._after_websocket_request:
                second = pending[done + 1 : done + 2]
                if not second:
                    return slice(0, done)
                self._after_websocket_request = False
                if second[0] & _MASK_BIT:
                    self._stop_looking()
                    return slice(0, len(pending))
            event = self._next_event()
            if isinstance(event, h11.Request):
                begin, done = done, len(pending) - len(self._unconsumed())
                self._begin_request(event, pending[begin:done])
                if self._opaque:
                    return slice(done, len(pending))
            elif isinstance(event, h11.EndOfMessage):
                rest = self._unconsumed()
                begin, done = done, len(pending) - len(rest)
                self._end_request(event, pending[begin:done], rest)
            elif not isinstance(event, h11.Data):
                return slice(0, len(pending) - len(self._unconsumed()))

    def _begin_request(self, request: h11.Request, raw: bytes) -> None:
        if len(raw) > self._max_head:
            raise RejectedRequestError(f"the head of the request is larger than {self._max_head} bytes: make it smaller", 431)
        head = self._head = read_head(request, raw)
        if self._first is None:
            self._first = head
            if head.is_connect:
                self._stop_looking()
        elif head.is_connect:
            raise RejectedRequestError(f"CONNECT comes behind a request for {self._first.service_id}: open another connection")
        elif head.service_id != self._first.service_id:
            raise RejectedRequestError(
                f"a request for {head.service_id} comes behind one for {self._first.service_id}: open another connection", 421
            )

    def _end_request(self, event: h11.EndOfMessage, raw: bytes, rest: bytes) -> None:
        assert self._head is not None, "h11 ends what it has begun"
        if self._head.chunked:
            check_trailers(event, raw)
        self._after_websocket_request = self._head.websocket
        self._head = None
        self._parser = self._fresh_parser()
        if rest:
            self._parser.receive_data(rest)

    def _stop_looking(self) -> None:
        """From here on the bytes are no HTTP of ours; the parser must not keep a copy of those it has been given."""
        self._opaque = True
        if self._unconsumed():
            self._parser = self._fresh_parser()

    def _next_event(self) -> object:
        try:
            return self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise RejectedRequestError(f"this is no HTTP/1.1 request: {str(error)[:256]}", error.error_status_hint) from error

    def _unconsumed(self) -> bytes:
        rest: bytes = self._parser.trailing_data[0]
        return rest

    def _fresh_parser(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head)
