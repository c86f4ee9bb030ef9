from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.agent.access_log import AccessLog
from meshless_core.agent.access_log_fields import FIELDS
from meshless_core.agent.connections import Connection
from meshless_core.agent.metric_table import METRICS_BY_NAME
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
        "source_namespace": "shop",
        "source_meshlet": "web",
        "source_pod": "shop/web-0",
        "destination_namespace": "shop",
        "destination_meshlet": "cart",
        "destination_service": "http",
        "destination_version": None,
        "service": "http.cart.shop",
        "destination_pod": "shop/cart-0",
        "destination_node": "node-b",
        "peer": "127.0.0.1:1",
        "policy": "policy",
        "reason": "closed",
        "flags": "-",
        "ended_by": "client",
        "detail": "",
        "connect_seconds": 0.002,
        "bytes_to_service": 3,
        "bytes_to_client": 5,
    }


async def test_how_long_it_lasted_does_not_depend_on_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    log = AccessLog(lines.append, node="node-a")
    connection, began = _connection(), time.time()
    monkeypatch.setattr(time, "time", lambda: began - 3600.0)
    log.closed(connection, RelayResult("closed", "", "client", 3, 5))
    log.flush()
    assert 0 <= json.loads("".join(lines))["duration_seconds"] < 3600
    assert 0 <= connection.to_dict(began, time.monotonic())["age_seconds"] < 3600  # type: ignore[operator] # a number


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
    assert closed["detail"] == reason[:256]
    assert refused["code"] == "ACCESS_DENIED"
    assert refused["detail"] == reason[:256]


async def test_a_refused_request_is_one_line_with_its_rule_and_its_class() -> None:
    lines: list[str] = []
    log = AccessLog(lines.append, node="node-a")
    log.refused(b"\x02" * 16, "destination", WEB, None, SERVICE, ReplyCode.ACCESS_DENIED, "only-db", "not for web", "v2")
    log.refused(b"\x03" * 16, "source", None, None, None, ReplyCode.TIMEOUT, "handshake", "too late")
    log.flush()
    denied, late = map(json.loads, "".join(lines).splitlines())
    assert denied.pop("time") > 0
    assert denied == {
        "event": "refused",
        "node": "node-a",
        "connection": "02" * 16,
        "reporter": "destination",
        "source_namespace": "shop",
        "source_meshlet": "web",
        "source_pod": None,
        "destination_namespace": "shop",
        "destination_meshlet": "cart",
        "destination_service": "http",
        "destination_version": "v2",
        "service": "http.cart.shop",
        "policy": "only-db",
        "code": "ACCESS_DENIED",
        "reason": "policy",
        "flags": "access_denied",
        "detail": "not for web",
    }
    assert (late["reason"], late["flags"], late["service"], late["source_meshlet"]) == (
        "bad_request",
        "handshake_timeout",
        None,
        None,
    )


async def test_lines_have_the_fields_of_the_reference_and_the_labels_of_the_metrics() -> None:
    lines: list[str] = []
    log = AccessLog(lines.append, node="node-a")
    log.closed(_connection(), RelayResult("closed", "", "client", 3, 5))
    log.refused(b"\x02" * 16, "source", WEB, None, SERVICE, ReplyCode.ACCESS_DENIED, "policy", "why")
    log.flush()
    closed, refused = map(json.loads, "".join(lines).splitlines())
    assert set(closed) == {field.name for field in FIELDS if field.closed}
    assert set(refused) == {field.name for field in FIELDS if field.refused}
    for name, line in (("meshless_connections_closed_total", closed), ("meshless_connections_refused_total", refused)):
        assert set(METRICS_BY_NAME[name].labels) <= set(line)


async def test_the_line_says_who_cut_a_connection() -> None:
    lines: list[str] = []
    log = AccessLog(lines.append, node="node-a")
    connection = _connection()
    connection.cut_for = "revoked"
    log.closed(connection, RelayResult("aborted", "no longer allowed by p", "agent", 3, 5))
    log.flush()
    [entry] = map(json.loads, "".join(lines).splitlines())
    assert (entry["reason"], entry["flags"], entry["detail"]) == ("aborted", "revoked", "no longer allowed by p")


async def test_a_name_that_a_peer_told_is_cut() -> None:
    lines: list[str] = []
    log = AccessLog(lines.append, node="node-a")
    pod = PodRef("n" * 63, ".".join(["p" * 50] * 5)[:253])
    log.refused(b"\x02" * 16, "destination", WEB, pod, SERVICE, ReplyCode.ACCESS_DENIED, "policy", "why")
    log.flush()
    assert len(str(pod)) > 256
    assert json.loads(lines[0])["source_pod"] == str(pod)[:256]


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
