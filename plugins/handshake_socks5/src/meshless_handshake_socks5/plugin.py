"""Registers SOCKS version 5 under the name `handshake_socks5`. It must not do anything else."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from meshless_core import HandshakeProtocol, HandshakeSpec, hookimpl
from meshless_handshake_socks5.handshake import VERSION, Socks5Handshake

__all__ = ["Options", "meshless_register_handshake"]


@attrs.frozen
class Options:
    """SOCKS version 5 has no settings: who the client is says the socket, so there is no authentication to choose."""


def _create(options: Options) -> Callable[[], HandshakeProtocol]:
    return Socks5Handshake


@hookimpl
def meshless_register_handshake() -> HandshakeSpec:
    """Claim the first byte 5."""
    return HandshakeSpec(api=1, options=Options, create=_create, first_bytes=frozenset({VERSION}))
