"""The data path: moves bytes between two ends, keeps half-close and reset, enforces idle time, counts.

It knows nothing of meshlets, policies or plugins, and it never blocks the event loop it lives in.
"""

from meshless_core.relay.ending import close_with_reset
from meshless_core.relay.framed import FramedSession
from meshless_core.relay.interface import EndedBy, OnClose, Outcome, Relay, RelayResult
from meshless_core.relay.loop import DataPathLoop
from meshless_core.relay.plain import relay_plain
from meshless_core.relay.reactor import Reactor

__all__ = [
    "DataPathLoop",
    "EndedBy",
    "FramedSession",
    "OnClose",
    "Outcome",
    "Reactor",
    "Relay",
    "RelayResult",
    "close_with_reset",
    "relay_plain",
]
