"""Registers HTTP under the name `handshake_http`. It must not do anything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from meshless_core import HandshakeProtocol, HandshakeSpec, hookimpl
from meshless_handshake_http.handshake import HttpHandshake

__all__ = ["FIRST_BYTES", "Options", "meshless_register_handshake"]

FIRST_BYTES: Final = frozenset(range(ord("A"), ord("Z") + 1))
"""Every method in use begins with an upper-case letter, and methods are case-sensitive (RFC 9110, section 9.1)."""


@attrs.frozen
class Options:
    """Settings of `handshake_http`.

    Attributes:
        max_head_bytes: largest head of a request.
    """

    max_head_bytes: int = attrs.field(
        default=16 * 1024,
        validator=[attrs.validators.ge(1024), attrs.validators.le(48 * 1024)],
        metadata={
            "doc": "bytes, 1024 to 49152; largest request line and headers together, of every request on a connection. A larger"
            " one is answered with 431. 16 KiB is what common servers take; this much memory one client can make the agent hold"
        },
    )


def _create(options: Options) -> Callable[[], HandshakeProtocol]:
    return partial(HttpHandshake, options.max_head_bytes)


@hookimpl
def meshless_register_handshake() -> HandshakeSpec:
    """Claim the upper-case letters."""
    return HandshakeSpec(api=1, options=Options, create=_create, first_bytes=FIRST_BYTES)
