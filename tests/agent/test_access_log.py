from __future__ import annotations

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from meshless_core.agent.access_log import AccessLog
from meshless_core.agent.connections import Connection
from meshless_core.relay import RelayResult
from meshless_core.types import Endpoint, MeshletRef, PodRef, ReplyCode, ServiceId

SERVICE = ServiceId("http", "cart", "shop")
WEB = MeshletRef("shop", "web")


def _connection() -> Connection:
    endpoint = Endpoint(PodRef("shop", "cart-0"), "uid", "node-b", "127.0.0.1:1", None, ready=True)
    return Connection(
        b"\x01" * 16, "source", "tunnel", WEB, PodRef("shop", "web-0"), SERVICE, endpoint, "127.0.0.1:1", "policy", 0.002
    )


async def test_a_closed_connection_is_one_line_of_json_with_everything_in_it() -> None:
    lines: list[str] = []
    log = AccessLog(lines.append, node="node-a")
    log.closed(_connection(), RelayResult("closed", "", "client", 3, 5))
    log.flush()
    [entry] = map(json.loads, "".join(lines).splitlines())
    assert entry.pop("time") > 0
    assert entry.pop("duration_seconds") >= 0
    assert entry == {
        "event": "closed",
        "node": "node-a",
        "connection": "01" * 16,
        "reporter": "source",
        "transport": "tunnel",
        "source": "shop/web",
        "source_pod": "shop/web-0",
        "service": "http.cart.shop",
        "version": None,
        "pod": "shop/cart-0",
        "destination_node": "node-b",
        "peer": "127.0.0.1:1",
        "policy": "policy",
        "outcome": "closed",
        "ended_by": "client",
        "reason": "",
        "connect_seconds": 0.002,
        "bytes_to_service": 3,
        "bytes_to_client": 5,
    }


@given(st.text())
def test_whatever_a_peer_says_stays_one_line_of_json(reason: str) -> None:
    async def run() -> str:
        lines: list[str] = []
        log = AccessLog(lines.append, node="node-a")
        log.closed(_connection(), RelayResult("reset", reason[:256], "client", 0, 0))
        log.refused(b"\x02" * 16, "source", WEB, None, SERVICE, ReplyCode.ACCESS_DENIED, "policy", reason)
        log.flush()
        return "".join(lines)

    text = asyncio.run(run())
    assert text.count("\n") == 2
    closed, refused = map(json.loads, text.split("\n")[:2])
    assert closed["reason"] == reason[:256]
    assert refused["code"] == "ACCESS_DENIED"
    assert refused["reason"] == reason[:256]


async def test_lines_that_cannot_be_written_are_counted_and_the_agent_goes_on() -> None:
    def full(_text: str) -> None:
        raise OSError(28, "No space left on device")

    log = AccessLog(full, node="node-a")
    log.closed(_connection(), RelayResult("closed", "", "client", 0, 0))
    log.flush()
    assert log.lost == 1


async def test_without_a_log_nothing_is_kept() -> None:
    log = AccessLog(None, node="node-a")
    log.closed(_connection(), RelayResult("closed", "", "client", 0, 0))
    log.flush()
    assert log.lost == 0
