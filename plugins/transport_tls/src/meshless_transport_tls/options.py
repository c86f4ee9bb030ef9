"""The settings of `plugins.transport_tls`. Must hold no behaviour."""

from __future__ import annotations

import attrs
from attrs.validators import ge, gt, le

__all__ = ["Options"]


@attrs.frozen
class Options:
    """Settings of the TLS transport.

    Attributes:
        handshake_timeout: seconds from the first packet to an authenticated stream, connecting included.
        max_handshake_bytes: bytes a peer may send before it is authenticated.
        max_pending_handshakes: connections that may be authenticating at the same time, each direction for itself.
        dead_peer_timeout: seconds of silence or unacknowledged data after which a peer is given up.
    """

    handshake_timeout: float = attrs.field(
        default=5.0,
        validator=gt(0),
        metadata={"doc": "seconds from the first packet to an authenticated stream; bounds what a stalling peer costs"},
    )
    max_handshake_bytes: int = attrs.field(
        default=16 * 1024,
        validator=[ge(4096), le(128 * 1024)],
        metadata={"doc": "bytes a peer may send before it is authenticated; a real handshake takes about 2,500"},
    )
    max_pending_handshakes: int = attrs.field(
        default=256,
        validator=ge(1),
        metadata={
            "doc": "incoming connections that may be authenticating at once; more are closed, so that a flood costs no memory"
        },
    )
    dead_peer_timeout: int = attrs.field(
        default=60,
        validator=[ge(4), le(3600)],
        metadata={"doc": "seconds after which a peer that acknowledges nothing is given up (TCP keepalive, TCP_USER_TIMEOUT)"},
    )
