"""Reads a ClientHello before OpenSSL does, sans-IO (RFC 8446, 4.1.2 and 5.1).

Why not the library's server name callback: here a peer that is not one of ours is refused with the exact alert after a bounded
number of bytes, no TLS state is made for it, and the session is created with the right leaf from the start instead of being
switched over inside a callback. Nothing read here is trusted: it only chooses which leaf to show. Must not do I/O.
"""

from __future__ import annotations

from typing import Final

import attrs

from meshless_core import RemoteProtocolError
from meshless_transport_tls.failures import Alert

__all__ = ["ClientHello", "ClientHelloReader"]

TLS_1_3: Final = 0x0304
_RECORD_HEADER: Final = 5
_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 16384
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43


@attrs.frozen
class ClientHello:
    """What a client asks for.

    Attributes:
        server_name: the host name of the server name extension, None without one.
        protocols: the offered application protocols, in the client's order.
        versions: the offered TLS versions as numbers; empty from a client older than TLS 1.3.
    """

    server_name: str | None
    protocols: tuple[bytes, ...]
    versions: tuple[int, ...]


class ClientHelloReader:
    """Collects the records of one ClientHello, however they are split."""

    __slots__ = ("_buffer", "_limit", "_message", "_scanned")

    def __init__(self, limit: int) -> None:
        """Make a reader that accepts at most `limit` bytes, record headers included."""
        self._buffer = bytearray()
        self._message = bytearray()
        self._scanned = 0
        self._limit = limit

    @property
    def data(self) -> bytes:
        """Everything received so far: to be fed to the TLS library."""
        return bytes(self._buffer)

    def receive_data(self, data: bytes) -> ClientHello | None:
        """Feed bytes; the ClientHello once it is complete, else None.

        Raises:
            RemoteProtocolError: not a ClientHello, or too large; `code` is the TLS alert to answer with.
        """
        self._buffer += data
        buffer = self._buffer
        if buffer and buffer[0] != _HANDSHAKE_RECORD:
            raise _refuse(Alert.UNEXPECTED_MESSAGE, "the peer does not speak tls")
        while len(buffer) - self._scanned >= _RECORD_HEADER:
            start = self._scanned
            length = int.from_bytes(buffer[start + 3 : start + 5], "big")
            if buffer[start] != _HANDSHAKE_RECORD or buffer[start + 1] != 3 or not length:
                raise _refuse(Alert.UNEXPECTED_MESSAGE, "the peer does not speak tls")
            if length > _MAX_RECORD or start + _RECORD_HEADER + length > self._limit:
                raise _refuse(Alert.RECORD_OVERFLOW, f"the client hello is larger than {self._limit} bytes")
            if len(buffer) < start + _RECORD_HEADER + length:
                break
            self._message += buffer[start + _RECORD_HEADER : start + _RECORD_HEADER + length]
            self._scanned = start + _RECORD_HEADER + length
            hello = self._parse()
            if hello is not None:
                return hello
        if len(buffer) >= self._limit:
            raise _refuse(Alert.RECORD_OVERFLOW, f"the client hello is larger than {self._limit} bytes")
        return None

    def _parse(self) -> ClientHello | None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise _refuse(Alert.UNEXPECTED_MESSAGE, "the first tls message is no client hello")
        if len(message) < 4:
            return None
        length = int.from_bytes(message[1:4], "big")
        if length > self._limit:
            raise _refuse(Alert.RECORD_OVERFLOW, f"the client hello is larger than {self._limit} bytes")
        if len(message) < 4 + length:
            return None
        return _read_body(_Cursor(bytes(message[4 : 4 + length])))


class _Cursor:
    """Takes vectors off the front of bytes (RFC 8446, 3.4)."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _refuse(Alert.DECODE_ERROR, "the client hello is cut off")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> _Cursor:
        return _Cursor(self.take(self.number(width)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)


def _read_body(body: _Cursor) -> ClientHello:
    body.take(2 + 32)  # legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    found: dict[int, _Cursor] = {}
    if body:
        extensions = body.vector(2)
        while extensions:
            kind = extensions.number(2)
            if kind in found:
                raise _refuse(Alert.ILLEGAL_PARAMETER, "the client hello has an extension twice")
            found[kind] = extensions.vector(2)
    if body:
        raise _refuse(Alert.DECODE_ERROR, "the client hello has bytes behind its end")
    return ClientHello(
        server_name=_read_server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else None,
        protocols=_read_protocols(found[_ALPN]) if _ALPN in found else (),
        versions=_read_versions(found[_SUPPORTED_VERSIONS]) if _SUPPORTED_VERSIONS in found else (),
    )


def _read_server_name(extension: _Cursor) -> str:
    names = extension.vector(2)
    kind, name = names.number(1), names.vector(2).rest()
    if kind != 0 or names or extension or not name.isascii() or not name:
        raise _refuse(Alert.DECODE_ERROR, "the server name of the client hello is not one host name")
    return name.decode("ascii")


def _read_protocols(extension: _Cursor) -> tuple[bytes, ...]:
    names = extension.vector(2)
    protocols = []
    while names:
        protocols.append(names.vector(1).rest())
    return tuple(protocols)


def _read_versions(extension: _Cursor) -> tuple[int, ...]:
    numbers = extension.vector(1)
    versions = []
    while numbers:
        versions.append(numbers.number(2))
    return tuple(versions)


def _refuse(alert: Alert, message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code=int(alert))
