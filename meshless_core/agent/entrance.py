"""Where a client came in. Holds what its handling needs and nothing about how it goes on."""

from __future__ import annotations

from typing import Protocol

from meshless_core.agent.admission import Admission
from meshless_core.agent.outbound import OutboundTunnels
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.socketd import PodSockets

__all__ = ["Entrance"]


class Entrance(Protocol):
    """Where a client came in: the listener that is its identity.

    Attributes:
        runtime: the agent's shared state.
        admission: decides.
        tunnels: to other agents.
        pod: the client's pod.
        handshaking: how many requests of this pod are incomplete.
    """

    runtime: AgentRuntime
    admission: Admission
    tunnels: OutboundTunnels
    pod: PodSockets
    handshaking: int
