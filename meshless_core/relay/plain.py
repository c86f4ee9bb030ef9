"""The engine for two plain descriptors."""

from __future__ import annotations

import socket

from meshless_core.relay.interface import OnClose, Relay
from meshless_core.relay.reactor import Reactor


def relay_plain(
    reactor: Reactor,
    client: socket.socket,
    service: socket.socket,
    *,
    early: bytes = b"",
    idle_timeout: float | None,
    on_close: OnClose,
) -> Relay:
    """Relay between two connected stream sockets until both directions are over; owns and closes both."""
    raise NotImplementedError
