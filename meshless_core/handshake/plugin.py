"""Registers the client handshake, version 1, as the built-in plugin `handshake_v1`. It must not do anything else."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from meshless_core.handshake.server import FIRST_BYTE, ServerHandshake
from meshless_core.hookspecs import HandshakeProtocol, HandshakeSpec, hookimpl

__all__ = ["Options", "meshless_register_handshake"]


@attrs.frozen
class Options:
    """Version 1 has no settings: it is byte-exact by contract."""


def _create(options: Options) -> Callable[[], HandshakeProtocol]:
    return ServerHandshake


@hookimpl
def meshless_register_handshake() -> HandshakeSpec:
    """Claim the first byte 1."""
    return HandshakeSpec(api=1, options=Options, create=_create, first_bytes=frozenset({FIRST_BYTE}))
