"""SOCKS version 5 as the agent speaks it, without I/O: method negotiation, one request, one reply (RFC 1928).

The wire::

    client:  5 . number of methods . methods
    agent:   5 . method                                          (0 = no authentication, 255 = none acceptable)
    client:  5 . command . 0 . address type . address . port     (CONNECT, a domain name, any port)
    agent:   5 . reply . 0 . 1 . 0.0.0.0 . 0

There is one method, no authentication: the socket the client dialled is its identity, nothing it could say would add to that.
There is one command, CONNECT, and one address type, the domain name, which has to be a service id. Names of hosts are compared
without regard to case and may end in a dot (RFC 3986, section 3.2.2), which some browsers keep; so is it here. The port is
ignored: a service is a name.

What is judged, and when: the version byte of each message when it arrives, command, reserved byte and address type when all
three are there, the name when it is complete. A client may send everything in one write without waiting for the method; what
follows the request is the application's.

This module must not do I/O or read a clock: the caller owns the deadline.
"""

from __future__ import annotations

import enum
from typing import Final, Never

from meshless_core import (
    HandshakeRequest,
    InvalidNameError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyCode,
    ReplyDetails,
    ServiceId,
)
from meshless_handshake_socks5.codes import NO_ACCEPTABLE_METHODS, REPLIES, SocksReply

__all__ = ["VERSION", "Socks5Handshake", "State"]

VERSION: Final = 5

_NO_AUTHENTICATION: Final = 0
_CONNECT: Final = 1
_DOMAIN_NAME: Final = 3
_HEADER: Final = 4
_PORT: Final = 2
_COMMANDS: Final = {2: "BIND", 3: "UDP ASSOCIATE"}
_ADDRESSES: Final = {1: "an IPv4 address", 4: "an IPv6 address"}


class State(enum.Enum):
    """Where a handshake stands."""

    AWAITING_METHODS = "awaiting methods"
    AWAITING_REQUEST = "awaiting the request"
    REQUESTED = "requested"
    REJECTED = "rejected"
    ESTABLISHED = "established"
    REFUSED = "refused"


_READING: Final = frozenset({State.AWAITING_METHODS, State.AWAITING_REQUEST})


class Socks5Handshake:
    """One handshake as the agent sees it; satisfies `HandshakeProtocol` and `InteractiveHandshake`.

    Holds at most 262 bytes of an incomplete message. What the caller read beyond the request is kept as `trailing_data`, so
    the caller's read size bounds it.
    """

    __slots__ = ("_buffer", "_chosen", "_rejection", "_state", "_trailing", "_unsent")

    def __init__(self) -> None:
        self._state = State.AWAITING_METHODS
        self._buffer = b""
        self._unsent = b""
        self._chosen = False
        self._rejection: SocksReply | None = None
        self._trailing = b""

    @property
    def state(self) -> State:
        """Where the handshake stands."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """Application bytes that arrived behind the request, in order; empty until the request is complete."""
        return self._trailing

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        """Feed bytes as they arrive.

        Args:
            data: what was read from the client; b"" means that it sent end-of-file.

        Returns:
            The request once it is complete, None while more bytes are needed.

        Raises:
            RemoteProtocolError: the bytes are not a request this handshake can serve; `code` says which reply is due.
            LocalProtocolError: called again after the request was returned or an error was raised.
        """
        if self._state not in _READING:
            raise LocalProtocolError(f"cannot receive data in a handshake that is {self._state.value}")
        if not data:
            self._reject(f"the client sent end of file while the agent was {self._state.value}")
        self._buffer += data
        if self._state is State.AWAITING_METHODS and not self._read_methods():
            return None
        return self._read_request()

    def data_to_send(self) -> bytes:
        """The method selection, once it is made."""
        data, self._unsent = self._unsent, b""
        return data

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        """Bytes of the reply, behind a method selection that was not sent yet.

        Args:
            code: the verdict.
            text: for people; SOCKS cannot carry it.
            details: likewise.

        Raises:
            LocalProtocolError: `OK` without a complete request, or any reply after `OK`.
        """
        if self._state is State.ESTABLISHED or (code is ReplyCode.OK and self._state is not State.REQUESTED):
            raise LocalProtocolError(f"cannot reply {code.name} to a handshake that is {self._state.value}")
        self._state = State.REFUSED if code else State.ESTABLISHED
        if not self._chosen:
            return bytes((VERSION, NO_ACCEPTABLE_METHODS))
        reply = REPLIES[code] if self._rejection is None else self._rejection
        # The address we are bound to means nothing to a client; RFC 1928 wants one, and 0.0.0.0:0 is what all take.
        return self.data_to_send() + bytes((VERSION, reply, 0, 1, 0, 0, 0, 0, 0, 0))

    def _read_methods(self) -> bool:
        """Whether the client's methods are there, and one of them is ours."""
        buffer = self._buffer
        self._check_version()
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return False
        end = 2 + buffer[1]
        if _NO_AUTHENTICATION not in buffer[2:end]:
            self._reject("the client does not offer the SOCKS method 0, no authentication; the socket is its identity")
        self._buffer = buffer[end:]
        self._unsent = bytes((VERSION, _NO_AUTHENTICATION))
        self._chosen = True
        self._state = State.AWAITING_REQUEST
        return True

    def _read_request(self) -> HandshakeRequest | None:
        buffer = self._buffer
        if not buffer:
            return None
        self._check_version()
        if len(buffer) < _HEADER:
            return None
        command, reserved, kind = buffer[1:_HEADER]
        if command != _CONNECT:
            name = _COMMANDS.get(command, f"number {command}")
            self._reject(f"the SOCKS command {name} is not supported: use CONNECT", SocksReply.COMMAND_NOT_SUPPORTED)
        if reserved:
            self._reject(f"the reserved byte of the SOCKS request is {reserved}, it has to be 0", SocksReply.GENERAL_FAILURE)
        if kind != _DOMAIN_NAME:
            what = _ADDRESSES.get(kind, f"an address of type {kind}")
            self._reject(
                f"the SOCKS request names {what}: send the service id as a domain name, and let the proxy resolve it"
                " (socks5h://)",
                SocksReply.ADDRESS_TYPE_NOT_SUPPORTED,
            )
        if len(buffer) <= _HEADER:
            return None
        end = _HEADER + 1 + buffer[_HEADER]
        if len(buffer) < end + _PORT:
            return None
        return self._complete(buffer[_HEADER + 1 : end], buffer[end + _PORT :])

    def _complete(self, name: bytes, trailing: bytes) -> HandshakeRequest:
        try:
            # Latin-1 takes every byte, and none beyond ASCII is part of a DNS label, also not in lower case.
            service_id = ServiceId.parse(name.decode("latin-1").lower().removesuffix("."))
        except InvalidNameError as error:
            self._reject(str(error)[:256], SocksReply.HOST_UNREACHABLE, error)
        self._state = State.REQUESTED
        self._buffer = b""
        self._trailing = trailing
        return HandshakeRequest(service_id)

    def _check_version(self) -> None:
        if self._buffer and self._buffer[0] != VERSION:
            self._reject(
                f"the client sent SOCKS version {self._buffer[0]} while the agent was {self._state.value}: use version 5",
                SocksReply.GENERAL_FAILURE,
            )

    def _reject(self, message: str, reply: SocksReply = SocksReply.GENERAL_FAILURE, cause: Exception | None = None) -> Never:
        self._state = State.REJECTED
        self._buffer = b""
        self._rejection = reply
        raise RemoteProtocolError(message, code=ReplyCode.MALFORMED_REQUEST) from cause
