"""Registers the client handshake, version 2, as the plugin `handshake_v2`. It must not do anything else."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from meshless_core import HandshakeProtocol, HandshakeSpec, hookimpl
from meshless_handshake_v2.server import ServerHandshake
from meshless_handshake_v2.wire import FIRST_BYTE

__all__ = ["Options", "meshless_register_handshake"]


@attrs.frozen
class Options:
    """Version 2 has no settings: it is byte-exact by specification."""


def _create(options: Options) -> Callable[[], HandshakeProtocol]:
    return ServerHandshake


@hookimpl
def meshless_register_handshake() -> HandshakeSpec:
    """Claim the first byte 2."""
    return HandshakeSpec(api=1, options=Options, create=_create, first_bytes=frozenset({FIRST_BYTE}))
