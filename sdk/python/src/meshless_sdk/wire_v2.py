"""The client handshake, version 2, as bytes: a request with wishes, a reply with details, notices on a lease.

Shared by the blocking and the asyncio dialler. This module must not do I/O. The specification is `protocol/handshake-v2.md`;
`protocol/vectors/handshake-v2.json` is what the tests hold this to.
"""

from __future__ import annotations

import re

from meshless_sdk.errors import AgentUnavailable, InvalidArgument, ProtocolError
from meshless_sdk.wire import encode_request, refusal

TYPE_CHECKING = False  # importing typing costs as much as all the rest
if TYPE_CHECKING:
    from typing import Final

__all__ = ["Details", "ExtendedReply", "Notices", "encode_extended_request"]

_VERSION: Final = 2
_MAX_LENGTH: Final = 4096
_MAX_TEXT: Final = 256
_CRITICAL: Final = 0x80

_DEADLINE: Final = 0x01
_TRACEPARENT: Final = 0x02
_STICKY_KEY: Final = 0x03
_VERSION_PIN: Final = 0x04
_ACCEPTS_DESCRIPTOR: Final = 0x05

_CONNECTION_ID: Final = 0x11
_CHOSEN_VERSION: Final = 0x12
_ENDPOINT: Final = 0x13
_RETRY_AFTER: Final = 0x14
_TEXT: Final = 0x15
_DESCRIPTOR_FOLLOWS: Final = 0x16
_SIZES: Final = {
    _CONNECTION_ID: (16, 16),
    _CHOSEN_VERSION: (1, 63),
    _ENDPOINT: (3, 317),
    _RETRY_AFTER: (4, 4),
    _TEXT: (0, 256),
    _DESCRIPTOR_FOLLOWS: (0, 0),
}
"""Number of a field of a reply to its shortest and longest value, bytes."""

_TRACE: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Details:
    """What a reply says besides its code. What it does not say is empty or None.

    Attributes:
        connection_id: the connection in the logs of both agents, hexadecimal.
        version: the chosen version.
        endpoint: the chosen pod, `<namespace>/<pod>`.
        retry_after: seconds after which trying again makes sense.
        text: why, for people.
        descriptor_follows: whether the service's socket comes next.
    """

    __slots__ = ("connection_id", "descriptor_follows", "endpoint", "retry_after", "text", "version")

    def __init__(
        self,
        *,
        connection_id: str = "",
        version: str = "",
        endpoint: str = "",
        retry_after: float | None = None,
        text: str = "",
        descriptor_follows: bool = False,
    ) -> None:
        self.connection_id = connection_id
        self.version = version
        self.endpoint = endpoint
        self.retry_after = retry_after
        self.text = text
        self.descriptor_follows = descriptor_follows


def encode_extended_request(
    service_id: str,
    *,
    deadline: float | None = None,
    traceparent: str | None = None,
    sticky_key: bytes | None = None,
    version_pin: str | None = None,
    accepts_descriptor: bool = False,
) -> bytes:
    """The request for a service, with wishes.

    Args:
        service_id: `<service>.<meshlet>.<namespace>`.
        deadline: seconds the client waits for the reply.
        traceparent: W3C trace context.
        sticky_key: 1 to 64 bytes; the same key gets the same version.
        version_pin: a version, the value of a pod's label.
        accepts_descriptor: whether the service's socket may follow.

    Raises:
        InvalidServiceId: not a service id.
        InvalidArgument: a wish that no agent would take.
    """
    body = encode_request(service_id)[1:]
    if deadline is not None:
        if not deadline > 0:
            raise InvalidArgument(f"the deadline has to be more than 0 seconds, not {deadline}")
        body += _field(_DEADLINE, max(1, min(round(deadline * 1000), 2**32 - 1)).to_bytes(4, "big"))
    if traceparent is not None:
        if not _TRACE.fullmatch(traceparent):
            raise InvalidArgument(f"{traceparent[:256]!r} is no traceparent: write 00-<32 hex>-<16 hex>-<2 hex>, lower case")
        body += _field(_TRACEPARENT, traceparent.encode("ascii"))
    if sticky_key is not None:
        given: object = sticky_key  # whatever its annotation says
        if isinstance(given, str):
            raise InvalidArgument("a sticky key is bytes, not str; encode it")
        if not 1 <= len(sticky_key) <= 64:
            raise InvalidArgument(f"a sticky key has 1 to 64 bytes, not {len(sticky_key)}; hash a longer one")
        body += _field(_STICKY_KEY, sticky_key)
    if version_pin is not None:
        if not _LABEL_VALUE.fullmatch(version_pin):
            raise InvalidArgument(f"{version_pin[:256]!r} is no version: write the value of a pod's version label")
        body += _field(_VERSION_PIN, version_pin.encode("ascii"))
    if accepts_descriptor:
        body += _field(_ACCEPTS_DESCRIPTOR, b"")
    return bytes((_VERSION,)) + len(body).to_bytes(2, "big") + body


def _field(number: int, value: bytes) -> bytes:
    return bytes((number,)) + len(value).to_bytes(2, "big") + value


class ExtendedReply:
    """Collects the reply: read at most `wanted` bytes, feed them, until `wanted` is 0. So no application byte is touched.

    Attributes:
        wanted: how many bytes are missing as far as is known.
        details: what the reply said; complete when `wanted` is 0, also when a refusal was raised.
        is_version_1: whether the agent answered in the form of version 1. With code 1 it has no version 2: fall back.
    """

    __slots__ = ("_accepts_descriptor", "_buffer", "_service_id", "details", "is_version_1", "wanted")

    def __init__(self, service_id: str, *, accepts_descriptor: bool = False) -> None:
        self._service_id = service_id
        self._accepts_descriptor = accepts_descriptor
        self._buffer = bytearray()
        self.details = Details()
        self.is_version_1 = False
        self.wanted = 4

    def receive_data(self, data: bytes) -> None:
        """Feed what was read, at most `wanted` bytes; b"" means end-of-file. Returns for an OK and while bytes are missing.

        Raises:
            ConnectError: the agent refused; the subclass says why.
            AgentUnavailable: end-of-file instead of a reply.
            ProtocolError: not a reply.
        """
        assert len(data) <= self.wanted
        if not data:
            raise AgentUnavailable(
                f"the agent closed the connection to {self._service_id} without a reply: it was stopped or killed; retry"
            )
        buffer = self._buffer
        buffer += data
        if buffer[0] != _VERSION:
            self._receive_version_1()
            return
        if len(buffer) < 4:
            self.wanted = 4 - len(buffer)
            return
        length = int.from_bytes(buffer[2:4], "big")
        if length > _MAX_LENGTH:
            raise ProtocolError(f"the reply announces {length} bytes of fields; at most {_MAX_LENGTH} are allowed")
        self.wanted = 4 + length - len(buffer)
        if self.wanted:
            return
        code = buffer[1]
        self.details = _read_details(bytes(buffer[4:]))
        if self.details.descriptor_follows and (code or not self._accepts_descriptor):
            raise ProtocolError(
                f"the agent announced a descriptor for {self._service_id} that nobody asked for; upgrade the agent"
            )
        if code:
            raise refusal(self._service_id, code, self.details.connection_id, self.details.retry_after, self.details.text)

    def _receive_version_1(self) -> None:
        buffer = self._buffer
        if buffer[0] != 1:
            raise ProtocolError(
                f"the reply has version {buffer[0]} instead of 2; check that the path is the socket of an agent"
            )
        self.is_version_1 = True
        if len(buffer) < 2:
            self.wanted = 1
            return
        self.wanted = 0
        if not buffer[1]:
            raise ProtocolError("the agent said yes in version 1 to a request in version 2; upgrade the agent")
        raise refusal(self._service_id, buffer[1])


def _read_details(data: bytes) -> Details:
    seen: set[int] = set()
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        value = data[at + 3 : at + 3 + size]
        if at + 3 > len(data) or len(value) < size:
            raise ProtocolError("a field reaches beyond the end of the agent's reply")
        number = data[at] & ~_CRITICAL
        if number in seen:
            raise ProtocolError(f"the agent's reply has the field 0x{number:02x} twice")
        seen.add(number)
        if number in _SIZES:
            shortest, longest = _SIZES[number]
            if not shortest <= size <= longest:
                raise ProtocolError(f"the field 0x{number:02x} of the agent's reply has {size} bytes")
            found[number] = value
        elif data[at] & _CRITICAL:
            raise ProtocolError(
                f"the agent's reply has the critical field 0x{data[at]:02x}, not known here; upgrade this package"
            )
        at += 3 + size
    return Details(
        connection_id=found.get(_CONNECTION_ID, b"").hex(),
        version=_shown(found.get(_CHOSEN_VERSION, b"")),
        endpoint=_shown(found.get(_ENDPOINT, b"")),
        retry_after=int.from_bytes(found[_RETRY_AFTER], "big") / 1000 if _RETRY_AFTER in found else None,
        text=_shown(found.get(_TEXT, b"")),
        descriptor_follows=_DESCRIPTOR_FOLLOWS in found,
    )


def _shown(data: bytes) -> str:
    """A peer's text, fit to be shown: cut, no control characters."""
    text = data.decode("utf-8", "replace")[:_MAX_TEXT]
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


class Notices:
    """Reads the notices on a lease. Feed whatever was read; bounded, because complete notices leave the buffer.

    Attributes:
        end: "open", "revoked", "released" (end-of-file), or "protocol_error", which means the same as "revoked" to the client.
    """

    __slots__ = ("_buffer", "end")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.end = "open"

    def receive_data(self, data: bytes) -> list[tuple[str, str]]:
        """The notices that are complete now, as (kind, text), kinds "drain" and "revoked"; b"" means end-of-file."""
        found: list[tuple[str, str]] = []
        if self.end != "open":
            return found
        if not data:
            self.end = "released"
            return found
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 3 and self.end == "open":
            size = int.from_bytes(buffer[1:3], "big")
            if size > _MAX_LENGTH:
                self.end = "protocol_error"
                break
            if len(buffer) < 3 + size:
                break
            text = _shown(bytes(buffer[3 : 3 + size]))
            if buffer[0] == 1:
                found.append(("drain", text))
            elif buffer[0] == 2:
                found.append(("revoked", text))
                self.end = "revoked"
            del buffer[: 3 + size]
        return found
