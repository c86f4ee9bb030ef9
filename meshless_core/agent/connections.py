"""The live connections of an agent: one table, from open to close.

It is what `meshless connections` shows, what a policy change walks through, and what a drain waits for.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from typing import Final, Literal

import attrs

from meshless_core.agent.flags import Cut
from meshless_core.agent.lease import Lease
from meshless_core.relay import Relay
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

__all__ = ["Connection", "ConnectionIds", "ConnectionTable", "Reporter", "TransportName"]

Reporter = Literal["source", "destination", "both"]
"""Which side this agent is on: `both` when client and service are on its own node."""

TransportName = Literal["local", "tunnel", "handoff"]


class ConnectionIds:
    """16-byte connection ids: unique without asking the kernel for randomness each time; not a secret."""

    def __init__(self) -> None:
        self._prefix: Final = os.urandom(10)
        self._next = itertools.count(1).__next__

    def new(self) -> bytes:
        """Another id."""
        return self._prefix + self._next().to_bytes(6, "big")


@attrs.define(eq=False)
class Connection:
    """One established connection.

    Attributes:
        id: 16 bytes, the same at both agents.
        reporter: which side this agent is on.
        transport: "tunnel" to another node, "local" through this agent, "handoff" past it.
        source: the client's meshlet.
        source_pod: the client's pod; told by the other agent if `reporter` is "destination".
        service: the service.
        endpoint: the pod that serves it.
        peer: address of the other agent, empty without one.
        policy: name of the policy that allowed it.
        opened: seconds of `time.monotonic()`: how long it lasts must not depend on the wall clock, which may be set meanwhile.
        connect_seconds: from the complete request to the reply.
        relay: moves the bytes; None only while the connection is being made.
        cut_for: why this agent cut it; empty if it did not.
        flow: the metrics' counters for this kind of connection.
        holds_slot: whether it counts for `maxConn` of a pod on this node, if its pod is on this node.
    """

    id: bytes
    reporter: Reporter
    transport: TransportName
    source: MeshletRef
    source_pod: PodRef | None
    service: ServiceId
    endpoint: Endpoint
    peer: str
    policy: str
    connect_seconds: float
    opened: float = attrs.field(factory=time.monotonic)
    relay: Relay | None = None
    cut_for: Cut = ""
    flow: object = None
    holds_slot: bool = True

    def cut(self, cut_for: Cut, reason: str) -> None:
        """End it now; does nothing if it is over or was cut already.

        Args:
            cut_for: the class of the reason, for the label `flags`.
            reason: for people and logs.
        """
        if self.relay is None or self.relay.closed:
            return
        self.cut_for = self.cut_for or cut_for
        self.relay.abort(reason)

    def to_dict(self, now: float, monotonic: float) -> dict[str, object]:
        """For JSON. `now` is Unix time, `monotonic` that of `time.monotonic()`, both in seconds."""
        relay, age = self.relay, monotonic - self.opened
        return {
            "id": self.id.hex(),
            "reporter": self.reporter,
            "transport": self.transport,
            "source": str(self.source),
            "source_pod": str(self.source_pod) if self.source_pod else None,
            "service": str(self.service),
            "version": self.endpoint.version,
            "pod": str(self.endpoint.pod),
            "node": self.endpoint.node,
            "peer": self.peer or None,
            "policy": self.policy,
            "opened_at": now - age,
            "age_seconds": round(age, 3),
            "idle_seconds": round(max(monotonic - relay.last_activity, 0.0), 3) if relay else 0.0,
            "bytes_to_service": relay.bytes_to_service if relay else 0,
            "bytes_to_client": relay.bytes_to_client if relay else 0,
            "revoked": isinstance(relay, Lease) and relay.revoked,
        }


class ConnectionTable:
    """All live connections, in the order they were opened.

    Not by id: on the server's side the other agent chooses it, and one that used an id twice would hide a connection from
    re-checks, limits and drain.
    """

    def __init__(self) -> None:
        self._connections: dict[Connection, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def add(self, connection: Connection) -> None:
        """Enter a connection."""
        self._connections[connection] = None
        self._empty.clear()

    def remove(self, connection: Connection) -> None:
        """Take out a connection that ended."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Return when no connection is left."""
        await self._empty.wait()

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections))

    def __len__(self) -> int:
        return len(self._connections)
