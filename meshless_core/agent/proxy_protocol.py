"""The PROXY protocol header (version 2) that tells a server who connects.

Written before the client's first byte when a service says `proxyProtocol: v2`. A pure function: this module must not do I/O.
The specification is `protocol/proxy-v2.md`; the reader is in the SDK, and both are held to `protocol/vectors/proxy-v2.json`.
"""

from __future__ import annotations

from typing import Final

from meshless_core.types import Identity, PodRef, ServiceId

__all__ = ["encode_proxy_header"]

_START: Final = b"\r\n\r\n\x00\r\nQUIT\n" + bytes((0x21, 0x00))
"""Signature; version 2 and command PROXY; family and transport UNSPEC, because a mesh has no addresses."""

_AUTHORITY: Final = 0x02
_UNIQUE_ID: Final = 0x05
_NAMESPACE: Final = 0xE0
_MESHLET: Final = 0xE1
_POD: Final = 0xE2
_IDENTITY: Final = 0xE3


def encode_proxy_header(*, connection_id: bytes, service: ServiceId, source: Identity, source_pod: PodRef | None) -> bytes:
    """The header for one connection, to be written before anything of the client.

    Args:
        connection_id: 16 bytes, the same in the logs of both agents.
        service: what was dialled.
        source: whom the connection was authorized for.
        source_pod: the client's pod where it is known; told by the client's agent, for the server's logs.

    Returns:
        At most 2 KiB, so it fits into the buffer of any fresh socket.
    """
    fields = (
        _field(_AUTHORITY, str(service).encode("ascii"))
        + _field(_UNIQUE_ID, connection_id)
        + _field(_NAMESPACE, source.namespace.encode("ascii"))
        + _field(_MESHLET, source.meshlet.encode("ascii"))
        + (b"" if source_pod is None else _field(_POD, source_pod.name.encode("ascii")))
        + _field(_IDENTITY, str(source).encode("ascii"))
    )
    return _START + len(fields).to_bytes(2, "big") + fields


def _field(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value
