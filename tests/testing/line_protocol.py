"""A client handshake as small as one can be, for tests of the checks: `L<service id>` and a line feed.

It keeps the contract; tests break it in one place each.
"""

from __future__ import annotations

from typing import Any

from meshless_core import HandshakeRequest, InvalidNameError, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId

MOST = 200
HTTP = HandshakeRequest(ServiceId("http", "cart", "shop"))
EXAMPLES = [(b"Lhttp.cart.shop\n", HTTP, b""), (b"Lhttp.cart.shop\nhello", HTTP, b"hello")]


class Line:
    """One connection."""

    def __init__(self) -> None:
        self.buffer = b""
        self.trailing_data = b""

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        if not data:
            raise self.refusal("the client ended in the middle")
        self.buffer += data
        line, line_feed, behind = self.buffer.partition(b"\n")
        if len(line) > MOST:
            raise self.refusal("too long")
        if not line_feed:
            return None
        try:
            service_id = ServiceId.parse(line[1:].decode("latin-1"))
        except InvalidNameError as error:
            raise self.refusal(str(error)) from error
        self.trailing_data = behind
        return HandshakeRequest(service_id)

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return b"%d\n" % code

    @staticmethod
    def refusal(text: str) -> RemoteProtocolError:
        return RemoteProtocolError(text, code=ReplyCode.MALFORMED_REQUEST)


class Talking(Line):
    """Says hello before the request."""

    def __init__(self) -> None:
        super().__init__()
        self.unsaid = b""
        self.greeted = False

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        if not self.greeted:
            self.greeted = True
            self.unsaid += b"hello\n"
        return super().receive_data(data)

    def data_to_send(self) -> bytes:
        said, self.unsaid = self.unsaid, b""
        return said

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return self.data_to_send() + super().reply(code, text, details)


class Filtering(Line):
    """Every later line has to be as the first, and goes to the service with it."""

    @property
    def filtering(self) -> Any:
        assert self.open, "this is asked after OK"
        return True

    def __init__(self) -> None:
        super().__init__()
        self.first = b""
        self.open = False

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        self.open = code is ReplyCode.OK
        return super().reply(code, text, details)

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        request = super().receive_data(data)
        if request is not None:
            line, _, behind = self.buffer.partition(b"\n")
            self.first = line + b"\n"
            self.buffer = b""
            self.trailing_data = self.first + self.filter_data(behind)
        return request

    def filter_data(self, data: bytes) -> bytes:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        if any(line + b"\n" != self.first for line in lines) or len(self.buffer) > MOST:
            raise self.refusal("for another service")
        if not data:
            rest, self.buffer = self.buffer, b""
            return rest
        return self.first * len(lines)


class Leasing(Line):
    """Every client takes a descriptor."""

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        request = super().receive_data(data)
        return None if request is None else HandshakeRequest(request.service_id, accepts_descriptor=True)

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        assert code or b"\n" in self.buffer, "OK is said to requests"
        return super().reply(code, text, details)

    def notice(self, kind: str, text: str = "") -> bytes:
        return kind.encode() + b"\n"


def filtered(*lines: bytes) -> tuple[bytes, HandshakeRequest, bytes]:
    """An example for `Filtering`."""
    return b"".join(lines), HTTP, b"".join(lines)


LEASE = (b"Lhttp.cart.shop\n", HandshakeRequest(HTTP.service_id, accepts_descriptor=True), b"")
