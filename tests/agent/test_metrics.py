from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshless_core.agent.connections import Connection, ConnectionTable
from meshless_core.agent.flags import Cut
from meshless_core.agent.hook_times import HookTimes
from meshless_core.agent.metric_table import METRICS
from meshless_core.agent.metrics import AgentMetrics
from meshless_core.relay import RelayResult
from meshless_core.types import Endpoint, MeshletRef, PodRef, ReplyCode, ServiceId

SERVICE = ServiceId("http", "cart", "shop")
WEB = MeshletRef("shop", "web")


class Relayed:
    bytes_to_service = 7
    bytes_to_client = 11
    last_activity = 0.0
    closed = False

    def abort(self, reason: str) -> None:
        raise NotImplementedError


def _connection(version: str | None = "v1") -> Connection:
    endpoint = Endpoint(PodRef("shop", "cart-0"), "uid", "node-b", "127.0.0.1:1", version, ready=True)
    return Connection(b"0" * 16, "source", "tunnel", WEB, PodRef("shop", "web-0"), SERVICE, endpoint, "", "policy", 0.002)


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.table = ConnectionTable()
        self.gauges: dict[str, dict[tuple[str, ...], float]] = {"meshless_pods": {(): 3.0}}
        self.hooks = HookTimes()
        self.metrics = AgentMetrics(
            self.table,
            gauges=lambda: self.gauges,
            clock=lambda: self.now,
            build={"version": "1", "node": "node-a"},
            hooks=self.hooks,
        )

    def sample(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.metrics.text().decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_connection_is_counted_from_open_to_close(world: World) -> None:
    connection = _connection()
    world.table.add(connection)
    world.metrics.opened(connection)
    connection.relay = Relayed()
    assert world.sample("meshless_connections_active", destination_version="v1") == 1
    assert world.sample("meshless_sent_bytes_total") == 7, "bytes grow during the connection, not only at its end"
    world.table.remove(connection)
    world.metrics.closed(connection, RelayResult("closed", "", "client", 7, 11), 0.5)
    assert world.sample("meshless_connections_active", destination_version="v1") == 0
    assert world.sample("meshless_sent_bytes_total") == 7
    assert world.sample("meshless_received_bytes_total") == 11
    assert world.sample("meshless_connections_closed_total", reason="closed", flags="-") == 1
    assert world.sample("meshless_connect_duration_seconds_bucket", le="0.0025") == 1
    assert world.sample("meshless_connect_duration_seconds_bucket", le="0.001") == 0
    assert world.sample("meshless_connection_duration_seconds_sum") == 0.5


async def test_a_name_nobody_knows_becomes_no_label(world: World) -> None:
    world.metrics.refused("source", WEB, None, ReplyCode.ACCESS_DENIED)
    labels = {"destination_service": "unknown", "destination_version": "unknown"}
    assert world.sample("meshless_connections_refused_total", reason="policy", flags="access_denied", **labels) == 1


async def test_flows_without_connections_are_forgotten_after_a_while(world: World) -> None:
    connection = _connection()
    world.metrics.opened(connection)
    world.now += 601
    assert world.sample("meshless_connections_opened_total") == 1, "an open connection is never forgotten"
    world.metrics.closed(connection, RelayResult("closed", "", "client", 0, 0), 601)
    assert world.sample("meshless_connections_opened_total") == 1
    world.now += 601
    assert world.sample("meshless_connections_opened_total") is None


async def test_refusals_are_forgotten_after_a_while_too(world: World) -> None:
    world.metrics.refused("source", WEB, SERVICE, ReplyCode.NO_ENDPOINT)
    world.now += 600
    assert world.sample("meshless_connections_refused_total", reason="no_endpoint") == 1
    world.metrics.refused("source", WEB, SERVICE, ReplyCode.NO_ENDPOINT)
    world.now += 600
    assert world.sample("meshless_connections_refused_total", reason="no_endpoint") == 2, "it was used meanwhile"
    world.now += 1
    assert world.sample("meshless_connections_refused_total") is None


async def test_an_agent_that_nobody_scrapes_forgets_too(world: World) -> None:
    for number in range(5):
        connection = _connection(f"v{number}")
        world.metrics.opened(connection)
        world.metrics.closed(connection, RelayResult("closed", "", "client", 0, 0), 1)
        world.metrics.refused("source", WEB, SERVICE, ReplyCode.TIMEOUT, version=f"v{number}")
        world.now += 601
    assert world.metrics.series <= 2, "what came after ten idle minutes made room for itself"


async def test_a_connection_that_was_cut_says_why(world: World) -> None:
    ended: tuple[tuple[Cut, RelayResult], ...] = (
        ("revoked", RelayResult("aborted", "no longer allowed", "agent", 0, 0)),
        ("draining", RelayResult("aborted", "the agent is shutting down", "agent", 0, 0)),
        ("", RelayResult("aborted", "the other agent says so", "agent", 0, 0)),
        ("", RelayResult("reset", "service: connection reset", "service", 0, 0)),
    )
    for cut, result in ended:
        connection = _connection()
        world.metrics.opened(connection)
        connection.cut_for = cut
        world.metrics.closed(connection, result, 1)
    for flags in ("revoked", "draining", "cut"):
        assert world.sample("meshless_connections_closed_total", reason="aborted", flags=flags) == 1
    assert world.sample("meshless_connections_closed_total", reason="reset", flags="service_reset") == 1


async def test_what_can_be_known_is_zero_from_the_start(world: World) -> None:
    for action in ("allow", "deny"):
        for reporter in ("source", "destination"):
            labels = {"action": action, "reporter": reporter, "mode": "enforce"}
            assert world.sample("meshless_authz_decisions_total", **labels) == 0
    assert world.sample("meshless_tunnel_handshakes_total", role="client", result="ok") == 0


async def test_a_transport_that_invents_results_floods_nobody(world: World) -> None:
    for number in range(1000):
        world.metrics.handshake("client", f"failed with {number}")
    text = world.metrics.text().decode()
    assert text.count("meshless_tunnel_handshakes_total{") < 100
    assert world.sample("meshless_tunnel_handshakes_total", role="client", result="other") > 900  # type: ignore[operator]


async def test_times_and_failures_of_plugins_are_exposed(world: World) -> None:
    world.hooks.observe("opa", "authorize", 0.02)
    world.hooks.failed("opa", "authorize", "timeout")
    labels = {"plugin": "opa", "hook": "authorize"}
    assert world.sample("meshless_plugin_hook_seconds_count", **labels) == 1
    assert world.sample("meshless_plugin_hook_seconds_bucket", le="0.01", **labels) == 0
    assert world.sample("meshless_plugin_hook_seconds_bucket", le="0.05", **labels) == 1
    assert world.sample("meshless_plugin_failures_total", reason="timeout", **labels) == 1


async def test_gauges_are_asked_at_each_scrape(world: World) -> None:
    assert world.sample("meshless_pods") == 3
    world.gauges["meshless_pods"] = {(): 4.0}
    assert world.sample("meshless_pods") == 4
    assert world.sample("meshless_build_info", node="node-a") == 1


async def test_whatever_is_exposed_is_in_the_table_of_metrics(world: World) -> None:
    connection = _connection(None)
    world.metrics.opened(connection)
    world.metrics.closed(connection, RelayResult("reset", "", "client", 1, 2), 3)
    world.metrics.revocation_ignored(connection)
    world.hooks.observe("opa", "authorize", 0.02)
    world.hooks.failed("opa", "authorize", "timeout")
    world.metrics.refused("destination", None, SERVICE, ReplyCode.TIMEOUT)
    world.metrics.decided("deny", "source")
    world.metrics.handshake("client", "ok")
    known = {info.name.removesuffix("_total"): info for info in METRICS}
    for family in text_string_to_metric_families(world.metrics.text().decode()):
        name = family.name.removesuffix("_info")
        assert name in known, family.name
        assert family.documentation == known[name].help
        for sample in family.samples:
            labels: Any = set(sample.labels) - {"le"}
            assert labels == set(known[name].labels), sample
