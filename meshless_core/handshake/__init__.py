"""The client handshake, version 1, without I/O: the agent's side, the client's side, and the tables both run on.

Nothing in this package may import asyncio, socket, ssl, time, random or logging: bytes in, events and bytes out.
"""

from meshless_core.handshake.client import ClientHandshake, Established, Refused
from meshless_core.handshake.server import FIRST_BYTE, ServerHandshake

__all__ = ["FIRST_BYTE", "ClientHandshake", "Established", "Refused", "ServerHandshake"]
