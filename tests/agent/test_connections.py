"""The table of live connections: nothing that lives may be missing from it."""

from __future__ import annotations

from meshless_core.agent.connections import Connection, ConnectionTable
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

_POD = PodRef("shop", "cart-0")


def _connection(connection_id: bytes) -> Connection:
    return Connection(
        id=connection_id,
        reporter="destination",
        transport="tunnel",
        source=MeshletRef("shop", "web"),
        source_pod=None,
        service=ServiceId("http", "cart", "shop"),
        endpoint=Endpoint(pod=_POD, uid="u", node="a", address="", version=None, ready=True),
        peer="10.0.0.1:1",
        policy="p",
        connect_seconds=0.0,
    )


async def test_a_peer_that_uses_an_id_twice_hides_no_connection() -> None:
    table = ConnectionTable()
    first, second = _connection(b"x" * 16), _connection(b"x" * 16)

    table.add(first)
    table.add(second)
    assert len(table) == 2
    assert list(table) == [first, second]

    table.remove(second)
    assert list(table) == [first]
    table.remove(first)
    table.remove(first)
    await table.wait_empty()
