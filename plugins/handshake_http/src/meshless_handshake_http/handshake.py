"""HTTP/1.1 as the agent speaks it to a client, without I/O: which service, may it pass, and how a no looks.

Two ways in. `CONNECT <service id>:<any port>` is answered with 200 and is a tunnel from there on, like any other connection of
the mesh. Every other request whose Host is a service id is forwarded as it came: the mesh answers nothing to it, the service
does; and what follows goes through `RequestStream`.

A no is a whole response, with the status clients know, a `Proxy-Status` field (RFC 9209) that says it is the mesh that speaks,
a text, and the end of the connection. This module must not do I/O or read a clock: the caller owns the deadline.
"""

from __future__ import annotations

import enum
import math
from http import HTTPStatus
from typing import Final

from meshless_core import HandshakeRequest, LocalProtocolError, ReplyCode, ReplyDetails
from meshless_handshake_http.codes import ANSWERS, REQUEST_TIMEOUT, Answer
from meshless_handshake_http.head import RejectedRequestError
from meshless_handshake_http.requests import RequestStream

__all__ = ["HttpHandshake", "State"]

_CONNECTED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_MAX_TEXT: Final = 256


class State(enum.Enum):
    """Where a handshake stands."""

    AWAITING_HEAD = "awaiting the head"
    REQUESTED = "requested"
    REJECTED = "rejected"
    ESTABLISHED = "established"
    REFUSED = "refused"


class HttpHandshake:
    """One connection as the agent sees it; satisfies `HandshakeProtocol` and `FilteringHandshake`."""

    __slots__ = ("_rejection", "_requests", "_state", "_trailing")

    def __init__(self, max_head: int) -> None:
        """Wait for the first request.

        Args:
            max_head: largest head of a request in bytes.
        """
        self._state = State.AWAITING_HEAD
        self._requests = RequestStream(max_head)
        self._rejection: int | None = None
        self._trailing = b""

    @property
    def state(self) -> State:
        """Where the handshake stands."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """What the service gets first: the request itself as far as it is there, or what came behind a CONNECT."""
        return self._trailing

    @property
    def filtering(self) -> bool:
        """Whether later requests have to be looked at: not in a tunnel."""
        first = self._requests.first
        return first is not None and not first.is_connect

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        """Feed bytes as they arrive.

        Args:
            data: what was read from the client; b"" means that it sent end-of-file.

        Returns:
            The request once its head is complete, None while more bytes are needed.

        Raises:
            RejectedRequestError: the bytes are not a request for a service; `code` says which reply is due.
            LocalProtocolError: called again after the request was returned or an error was raised.
        """
        if self._state is not State.AWAITING_HEAD:
            raise LocalProtocolError(f"cannot receive data in a handshake that is {self._state.value}")
        try:
            self._trailing = self._requests.receive_data(data)
        except RejectedRequestError as error:
            self._state = State.REJECTED
            self._rejection = error.status
            raise
        first = self._requests.first
        if first is None:
            return None
        self._state = State.REQUESTED
        return HandshakeRequest(first.service_id, traceparent=first.traceparent)

    def filter_data(self, data: bytes) -> bytes:
        """What may be forwarded of the client's next bytes; b"" in means end-of-file.

        Raises:
            RejectedRequestError: a request for another service, or bytes that cannot be told apart: cut the connection.
            LocalProtocolError: called before OK was replied.
        """
        if self._state is not State.ESTABLISHED:
            raise LocalProtocolError(f"cannot filter data in a handshake that is {self._state.value}")
        return self._requests.receive_data(data)

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        """Bytes of the reply: none for an OK that the service itself answers, a whole response for a no.

        Args:
            code: the verdict.
            text: for people; becomes part of the response.
            details: connection id and advice when to retry, likewise.

        Raises:
            LocalProtocolError: `OK` without a complete request, or any reply after `OK`.
        """
        if self._state is State.ESTABLISHED or (code is ReplyCode.OK and self._state is not State.REQUESTED):
            raise LocalProtocolError(f"cannot reply {code.name} to a handshake that is {self._state.value}")
        first = self._requests.first
        if code is ReplyCode.OK:
            self._state = State.ESTABLISHED
            return _CONNECTED if first is not None and first.is_connect else b""
        answer = self._answer(code)
        self._state = State.REFUSED
        return _response(answer, code, text, details, with_body=first is None or first.method != "HEAD")

    def _answer(self, code: ReplyCode) -> Answer:
        if self._rejection is not None:
            return Answer(self._rejection, "http_request_error")
        if code is ReplyCode.TIMEOUT and self._requests.first is None:
            return REQUEST_TIMEOUT
        return ANSWERS[code]


def _response(answer: Answer, code: ReplyCode, text: str, details: ReplyDetails | None, *, with_body: bool) -> bytes:
    text = _printable(text or code.meaning)
    lines = [f"meshless: {code.name}: {text}", f"you may: {code.advice}"]
    if details is not None:
        lines.append(f"connection id: {details.connection_id.hex()}")
    body = "".join(f"{line}\n" for line in lines)
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    fields = [
        "Content-Type: text/plain; charset=us-ascii",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        f'Proxy-Status: meshless; error={answer.error}; details="{code.name}: {quoted}"',
    ]
    if details is not None and details.retry_after is not None:
        fields.append(f"Retry-After: {math.ceil(details.retry_after)}")
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *fields))
    return f"{head}\r\n{body if with_body else ''}".encode("ascii")


def _printable(text: str) -> str:
    """At most 256 characters that a field and a structured string can carry (RFC 8941, section 3.3.3)."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:_MAX_TEXT])
