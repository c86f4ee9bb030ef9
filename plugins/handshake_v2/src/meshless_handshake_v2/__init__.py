"""The client handshake, version 2, without I/O: the agent's side, the client's side, and the tables both run on.

Nothing in this package may do I/O, read a clock, or log: bytes in, events and bytes out.
"""

from meshless_handshake_v2.client import ClientHandshake, Established, Refused
from meshless_handshake_v2.lease import ClientLease, Notice
from meshless_handshake_v2.server import ServerHandshake
from meshless_handshake_v2.wire import FIRST_BYTE, encode_request

__all__ = [
    "FIRST_BYTE",
    "ClientHandshake",
    "ClientLease",
    "Established",
    "Notice",
    "Refused",
    "ServerHandshake",
    "encode_request",
]
