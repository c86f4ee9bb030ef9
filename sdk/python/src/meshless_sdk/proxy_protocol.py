"""The PROXY protocol header (version 2) that tells a server who connects, as bytes.

Fed with bytes, never reads a clock or a socket: the servers around it bring the bytes and the time limit. The specification is
`protocol/proxy-v2.md`; `protocol/vectors/proxy-v2.json` is what the tests hold this to.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from meshless_sdk.errors import ProxyHeaderError

__all__ = ["MAX_HEADER_BYTES", "Peer", "ProxyHeader"]

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_BYTES: Final = 16
_MAX_LENGTH: Final = 4096

MAX_HEADER_BYTES: Final = _FIXED_BYTES + _MAX_LENGTH
"""How many bytes are kept at most before there is a verdict."""

_ADDRESS_BYTES: Final = (0, 12, 36, 216)
"""By family: UNSPEC, IPv4, IPv6, Unix."""

_UNIQUE_ID: Final = 0x05
_TEXTS: Final = {
    0x02: ("service_id", 255),
    0xE0: ("namespace", 63),
    0xE1: ("meshlet", 63),
    0xE2: ("pod", 253),
    0xE3: ("identity", 2048),
}
"""Type of a field to its attribute of `Peer`, and the longest value in bytes."""


class Peer(NamedTuple):
    """Who connects, as the agent said. What it did not say is empty.

    Attributes:
        service_id: the service that was dialled.
        connection_id: the same in the logs of both agents, hexadecimal.
        namespace: namespace of the client's meshlet.
        meshlet: its name.
        pod: name of the client's pod; told by the client's agent, for logs only.
        identity: `spiffe://<trust-domain>/ns/<namespace>/meshlet/<meshlet>`.
    """

    service_id: str = ""
    connection_id: str = ""
    namespace: str = ""
    meshlet: str = ""
    pod: str = ""
    identity: str = ""

    def __str__(self) -> str:
        return self.identity or f"{self.namespace or '?'}/{self.meshlet or '?'}"


class ProxyHeader:
    """Collects the header: read at most `wanted` bytes, feed them, until `wanted` is 0. So no byte of the client is touched.

    Attributes:
        wanted: how many bytes are missing as far as is known; 0 when the header is complete.
        peer: who connects, once the header is complete; None if it speaks for nobody (command LOCAL).
    """

    __slots__ = ("_buffer", "_length", "peer", "wanted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._length = -1
        self.wanted = _FIXED_BYTES
        self.peer: Peer | None = None

    def receive_data(self, data: bytes) -> None:
        """Feed what was read, at most `wanted` bytes; b"" means end-of-file.

        Raises:
            ProxyHeaderError: not a header, or one beyond the limits; close the connection.
        """
        assert len(data) <= self.wanted
        if not data:
            raise ProxyHeaderError(f"the connection ended after {len(self._buffer)} bytes of the PROXY header")
        self._buffer += data
        if self._length < 0:
            self._read_fixed_part()
            if self._length < 0:
                self.wanted = _FIXED_BYTES - len(self._buffer)
                return
        self.wanted = _FIXED_BYTES + self._length - len(self._buffer)
        if not self.wanted and self._buffer[12] == 0x21:
            self.peer = _read_fields(bytes(self._buffer[_FIXED_BYTES + _ADDRESS_BYTES[self._buffer[13] >> 4] :]))

    def _read_fixed_part(self) -> None:
        buffer = self._buffer
        if not _SIGNATURE.startswith(buffer[:12]):
            raise ProxyHeaderError(
                "the connection begins with no PROXY header; see that the service says proxyProtocol: v2 in the Meshlet, "
                "or serve without proxy_protocol"
            )
        if len(buffer) > 12 and buffer[12] not in (0x20, 0x21):
            raise ProxyHeaderError(f"the PROXY header has version and command 0x{buffer[12]:02x}; 0x20 or 0x21 was expected")
        if len(buffer) > 13 and (buffer[13] >> 4 > 3 or buffer[13] & 15 > 2):
            raise ProxyHeaderError(f"the PROXY header has family and transport 0x{buffer[13]:02x}, which do not exist")
        if len(buffer) < _FIXED_BYTES:
            return
        length = int.from_bytes(buffer[14:16], "big")
        if length > _MAX_LENGTH:
            raise ProxyHeaderError(f"the PROXY header announces {length} bytes; at most {_MAX_LENGTH} are read")
        if length < _ADDRESS_BYTES[buffer[13] >> 4]:
            raise ProxyHeaderError(f"the PROXY header announces {length} bytes, too few for its addresses")
        self._length = length


def _read_fields(data: bytes) -> Peer:
    known: dict[str, str] = {}
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        kind, value = data[at], data[at + 3 : at + 3 + size]
        if at + 3 > len(data) or len(value) < size:
            raise ProxyHeaderError("a field reaches beyond the end of the PROXY header")
        at += 3 + size
        name, text = _read_field(kind, value)
        if not name:
            continue
        if name in known:
            raise ProxyHeaderError(f"the PROXY header has the field {name} twice")
        known[name] = text
    return Peer(**known)


def _read_field(kind: int, value: bytes) -> tuple[str, str]:
    """Name and value of a field; an empty name if nobody here knows it."""
    if kind == _UNIQUE_ID:
        if not 1 <= len(value) <= 128:
            raise ProxyHeaderError(f"the connection id in the PROXY header has {len(value)} bytes; 1 to 128 were expected")
        return "connection_id", value.hex()
    if kind not in _TEXTS:
        return "", ""
    name, longest = _TEXTS[kind]
    if not value.isascii() or not 1 <= len(value) <= longest:
        raise ProxyHeaderError(f"the field {name} of the PROXY header is not 1 to {longest} ASCII characters")
    return name, value.decode("ascii")
