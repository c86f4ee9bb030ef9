"""What our reply codes are in SOCKS version 5: one table, from which the code answers and the reference page is made.

SOCKS has eight replies and no text, so several of ours share one; each gets the reply whose RFC 1928 name misleads least.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meshless_core import ReplyCode

__all__ = ["NO_ACCEPTABLE_METHODS", "REJECTIONS", "REPLIES", "SocksReply"]

NO_ACCEPTABLE_METHODS: Final = 0xFF
"""Answer to a client that gets no method: it offers none we have, or is refused before it chose (RFC 1928, section 3)."""


class SocksReply(enum.IntEnum):
    """The REP field (RFC 1928, section 6)."""

    SUCCEEDED = 0x00
    GENERAL_FAILURE = 0x01
    NOT_ALLOWED = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08


REPLIES: Final[Mapping[ReplyCode, SocksReply]] = MappingProxyType(
    {
        ReplyCode.OK: SocksReply.SUCCEEDED,
        ReplyCode.UNSUPPORTED_VERSION: SocksReply.GENERAL_FAILURE,
        ReplyCode.MALFORMED_REQUEST: SocksReply.GENERAL_FAILURE,
        ReplyCode.SERVICE_NOT_FOUND: SocksReply.HOST_UNREACHABLE,
        ReplyCode.ACCESS_DENIED: SocksReply.NOT_ALLOWED,
        ReplyCode.NO_ENDPOINT: SocksReply.HOST_UNREACHABLE,
        ReplyCode.CONNECTION_LIMIT: SocksReply.CONNECTION_REFUSED,
        ReplyCode.TUNNEL_FAILED: SocksReply.NETWORK_UNREACHABLE,
        ReplyCode.SERVICE_REFUSED: SocksReply.CONNECTION_REFUSED,
        ReplyCode.TIMEOUT: SocksReply.TTL_EXPIRED,
        ReplyCode.DRAINING: SocksReply.GENERAL_FAILURE,
        ReplyCode.OVERLOADED: SocksReply.GENERAL_FAILURE,
        ReplyCode.NOT_READY: SocksReply.GENERAL_FAILURE,
        ReplyCode.UNKNOWN_CLIENT: SocksReply.NOT_ALLOWED,
        ReplyCode.INTERNAL_ERROR: SocksReply.GENERAL_FAILURE,
    }
)

REJECTIONS: Final[Mapping[SocksReply, str]] = MappingProxyType(
    {
        SocksReply.COMMAND_NOT_SUPPORTED: "BIND, UDP ASSOCIATE or a command RFC 1928 does not know: there is only CONNECT",
        SocksReply.ADDRESS_TYPE_NOT_SUPPORTED: "an IPv4 or IPv6 address, or a type RFC 1928 does not know: services have names",
        SocksReply.HOST_UNREACHABLE: "a name that is not `<service>.<meshlet>.<namespace>`",
        SocksReply.GENERAL_FAILURE: "a request that is not SOCKS version 5, or ends before it is complete",
    }
)
"""Replies to requests that are all `MALFORMED_REQUEST` to us, where SOCKS can say more."""
