"""What the agent counts, in Prometheus' terms.

The connection path only adds to plain integers; text is made when somebody scrapes, and the bytes of live connections are read
from their relays at that moment, so counters grow during a connection, not only at its end. Names and labels follow
ztunnel's and Linkerd's where the meaning is the same. No label ever holds a pod, an address or text a peer chose: a service
nobody knows counts as `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import attrs
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from meshless_core.agent.connections import Connection, ConnectionTable, Reporter
from meshless_core.agent.histogram import Histogram
from meshless_core.agent.metric_table import FLOW_LABELS, METRICS_BY_NAME
from meshless_core.types import MeshletRef, ReplyCode, ServiceId

__all__ = ["UNKNOWN", "AgentMetrics"]

_EXPIRE_SECONDS: Final = 600.0
_CONNECT_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
_DURATION_BUCKETS: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)
UNKNOWN: Final = "unknown"


@attrs.define(eq=False)
class _Flow:
    """Counters of one combination of labels."""

    labels: tuple[str, ...]
    opened: int = 0
    active: int = 0
    sent: int = 0
    received: int = 0
    closed: dict[str, int] = attrs.field(factory=dict)
    connect: Histogram = attrs.field(factory=lambda: Histogram.make(_CONNECT_BUCKETS))
    duration: Histogram = attrs.field(factory=lambda: Histogram.make(_DURATION_BUCKETS))
    last_used: float = 0.0


_Labels = TypeVar("_Labels", bound=tuple[str, ...])
_FlowKey = tuple[Reporter, MeshletRef, ServiceId, str | None]


class AgentMetrics(Collector):
    """All counters of one agent.

    Args:
        connections: the live connections.
        gauges: called at each scrape: metric name -> (label values -> value), for what lives elsewhere.
        clock: monotonic seconds.
        build: label values of `meshless_build_info`.
    """

    def __init__(
        self,
        connections: ConnectionTable,
        *,
        gauges: Callable[[], Mapping[str, Mapping[tuple[str, ...], float]]],
        clock: Callable[[], float],
        build: Mapping[str, str],
    ) -> None:
        self._connections = connections
        self._gauges = gauges
        self._clock = clock
        self._build = dict(build)
        self._flows: dict[_FlowKey, _Flow] = {}
        self._refused: dict[tuple[str, ...], int] = {}
        self._ignored: dict[tuple[str, ...], int] = {}
        self._decisions: dict[tuple[str, str], int] = {}
        self._handshakes: dict[tuple[str, str], int] = {}

    def opened(self, connection: Connection) -> None:
        """A connection was established."""
        flow = connection.flow = self._flow(connection)
        flow.opened += 1
        flow.active += 1
        flow.connect.observe(connection.connect_seconds)

    def closed(self, connection: Connection, outcome: str, sent: int, received: int, seconds: float) -> None:
        """A connection ended; `sent` and `received` are its payload bytes, `seconds` its life."""
        flow = connection.flow
        assert isinstance(flow, _Flow), "only what was opened is closed"
        flow.last_used = self._clock()
        flow.active -= 1
        flow.closed[outcome] = flow.closed.get(outcome, 0) + 1
        flow.sent += sent
        flow.received += received
        flow.duration.observe(seconds)

    def refused(self, reporter: str, source: MeshletRef | None, service: ServiceId | None, code: ReplyCode) -> None:
        """A request was refused. Pass `service` only if it exists: its name becomes a label."""
        key = (
            reporter,
            source.namespace if source else UNKNOWN,
            source.name if source else UNKNOWN,
            service.namespace if service else UNKNOWN,
            service.meshlet if service else UNKNOWN,
            service.service if service else UNKNOWN,
            code.name.lower(),
        )
        self._refused[key] = self._refused.get(key, 0) + 1

    def revocation_ignored(self, connection: Connection) -> None:
        """The client of a handed-over connection did not stop when it was told to; the connection has not been closed yet."""
        flow = connection.flow
        assert isinstance(flow, _Flow), "only what was opened is revoked"
        self._ignored[flow.labels] = self._ignored.get(flow.labels, 0) + 1

    def decided(self, action: str, reporter: str) -> None:
        """The authorizers answered."""
        key = (action, reporter)
        self._decisions[key] = self._decisions.get(key, 0) + 1

    def handshake(self, role: str, result: str) -> None:
        """A secure handshake ended; `result` is "ok" or a low-cardinality reason."""
        key = (role, result)
        self._handshakes[key] = self._handshakes.get(key, 0) + 1

    def text(self) -> bytes:
        """Everything in Prometheus' text format (version 0.0.4)."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Make the families; called by the exposition."""
        now = self._clock()
        for key in [key for key, flow in self._flows.items() if not flow.active and now - flow.last_used > _EXPIRE_SECONDS]:
            del self._flows[key]
        live: dict[_FlowKey, tuple[int, int]] = {}
        for connection in self._connections:
            if connection.relay is not None:
                sent, received = live.get(_key(connection), (0, 0))
                live[_key(connection)] = (
                    sent + connection.relay.bytes_to_service,
                    received + connection.relay.bytes_to_client,
                )
        yield from self._flow_families(live)
        yield self._counter("meshless_connections_refused_total", self._refused)
        yield self._counter("meshless_revocations_ignored_total", self._ignored)
        yield self._counter("meshless_authz_decisions_total", self._decisions)
        yield self._counter("meshless_tunnel_handshakes_total", self._handshakes)
        for name, values in self._gauges().items():
            if METRICS_BY_NAME[name].type == "counter":
                yield self._counter(name, values)
                continue
            family = GaugeMetricFamily(name, METRICS_BY_NAME[name].help, labels=METRICS_BY_NAME[name].labels)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
        info = InfoMetricFamily("meshless_build", METRICS_BY_NAME["meshless_build"].help, labels=())
        info.add_metric((), self._build)
        yield info

    def _flow_families(self, live: Mapping[_FlowKey, tuple[int, int]]) -> Iterator[Metric]:
        opened = self._family("meshless_connections_opened_total")
        closed = self._family("meshless_connections_closed_total")
        sent = self._family("meshless_sent_bytes_total")
        received = self._family("meshless_received_bytes_total")
        active = GaugeMetricFamily(
            "meshless_connections_active", METRICS_BY_NAME["meshless_connections_active"].help, labels=FLOW_LABELS
        )
        connect = HistogramMetricFamily(
            "meshless_connect_duration_seconds", METRICS_BY_NAME["meshless_connect_duration_seconds"].help, labels=FLOW_LABELS
        )
        duration = HistogramMetricFamily(
            "meshless_connection_duration_seconds",
            METRICS_BY_NAME["meshless_connection_duration_seconds"].help,
            labels=FLOW_LABELS,
        )
        for key, flow in self._flows.items():
            live_sent, live_received = live.get(key, (0, 0))
            opened.add_metric(flow.labels, flow.opened)
            for outcome, count in flow.closed.items():
                closed.add_metric((*flow.labels, outcome), count)
            active.add_metric(flow.labels, flow.active)
            sent.add_metric(flow.labels, flow.sent + live_sent)
            received.add_metric(flow.labels, flow.received + live_received)
            connect.add_metric(flow.labels, flow.connect.buckets(), flow.connect.total)
            duration.add_metric(flow.labels, flow.duration.buckets(), flow.duration.total)
        yield from (opened, closed, active, sent, received, connect, duration)

    def _family(self, name: str) -> CounterMetricFamily:
        return CounterMetricFamily(name.removesuffix("_total"), METRICS_BY_NAME[name].help, labels=METRICS_BY_NAME[name].labels)

    def _counter(
        self, name: str, values: Mapping[tuple[str, ...], float] | Mapping[tuple[str, str], int]
    ) -> CounterMetricFamily:
        family = self._family(name)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family

    def _flow(self, connection: Connection) -> _Flow:
        key = _key(connection)
        flow = self._flows.get(key)
        if flow is None:
            reporter, source, service, version = key
            flow = self._flows[key] = _Flow(
                (
                    reporter,
                    source.namespace,
                    source.name,
                    service.namespace,
                    service.meshlet,
                    service.service,
                    version or UNKNOWN,
                )
            )
        flow.last_used = self._clock()
        return flow


def _key(connection: Connection) -> _FlowKey:
    return connection.reporter, connection.source, connection.service, connection.endpoint.version
