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
from meshless_core.agent.flags import Cut, closed_flags, refused_labels
from meshless_core.agent.histogram import Histogram
from meshless_core.agent.hook_times import HookTimes
from meshless_core.agent.metric_table import METRICS_BY_NAME
from meshless_core.relay import EndedBy, Outcome, RelayResult
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
_ENFORCE: Final = "enforce"
_MAX_RESULTS: Final = 64  # a transport plugin names the results of handshakes; one that invents words does not flood a scraper
_OTHER: Final = "other"


@attrs.define(eq=False)
class _Flow:
    """Counters of one combination of labels."""

    labels: tuple[str, ...]
    opened: int = 0
    active: int = 0
    sent: int = 0
    received: int = 0
    ignored: int = 0
    closed: dict[tuple[Outcome, EndedBy, Cut], int] = attrs.field(factory=dict)
    connect: Histogram = attrs.field(factory=lambda: Histogram.make(_CONNECT_BUCKETS))
    duration: Histogram = attrs.field(factory=lambda: Histogram.make(_DURATION_BUCKETS))
    last_used: float = 0.0

    def closings(self) -> Mapping[tuple[str, str], int]:
        """Ends by the labels `reason` and `flags`: words are for scrapes, the connection path counts what it has at hand."""
        found: dict[tuple[str, str], int] = {}
        for (outcome, ended_by, cut), count in self.closed.items():
            key = (outcome, closed_flags(outcome, ended_by, cut))
            found[key] = found.get(key, 0) + count
        return found


@attrs.define(eq=False)
class _Count:
    """A counter that is forgotten when nothing was counted for a while."""

    value: int = 0
    last_used: float = 0.0


_FlowKey = tuple[Reporter, MeshletRef, ServiceId, str | None]


class AgentMetrics(Collector):
    """All counters of one agent.

    Series with names of meshlets are forgotten when they were idle for ten minutes and none of their connections is open, since
    meshlets come and go; a scraper takes one that comes back for a restarted counter. All other series are of fixed sets and
    stay; those that can be known are 0 from the start, so that a first event is an increase.

    Args:
        connections: the live connections.
        gauges: called at each scrape: metric name -> (label values -> value), for what lives elsewhere.
        clock: monotonic seconds.
        build: label values of `meshless_build_info`.
        hooks: times and failures of plugins.
    """

    def __init__(
        self,
        connections: ConnectionTable,
        *,
        gauges: Callable[[], Mapping[str, Mapping[tuple[str, ...], float]]],
        clock: Callable[[], float],
        build: Mapping[str, str],
        hooks: HookTimes | None = None,
    ) -> None:
        self._connections = connections
        self._gauges = gauges
        self._clock = clock
        self._build = dict(build)
        self._hooks = hooks or HookTimes()
        self._flows: dict[_FlowKey, _Flow] = {}
        self._refused: dict[tuple[str, ...], _Count] = {}
        self._decisions: dict[tuple[str, ...], int] = {
            (action, _ENFORCE, reporter): 0 for action in ("allow", "deny") for reporter in ("source", "destination")
        }
        self._handshakes: dict[tuple[str, ...], int] = {(role, "ok"): 0 for role in ("client", "server")}
        self._swept = clock()

    def opened(self, connection: Connection) -> None:
        """A connection was established."""
        flow = connection.flow = self._flow(connection)
        flow.opened += 1
        flow.active += 1
        flow.connect.observe(connection.connect_seconds)

    def closed(self, connection: Connection, result: RelayResult, seconds: float) -> None:
        """A connection ended after so many seconds."""
        flow = connection.flow
        assert isinstance(flow, _Flow), "only what was opened is closed"
        flow.last_used = self._clock()
        flow.active -= 1
        how = (result.outcome, result.ended_by, connection.cut_for)
        flow.closed[how] = flow.closed.get(how, 0) + 1
        flow.sent += result.bytes_to_service
        flow.received += result.bytes_to_client
        flow.duration.observe(seconds)

    def refused(
        self,
        reporter: str,
        source: MeshletRef | None,
        service: ServiceId | None,
        code: ReplyCode,
        stage: str = "",
        version: str | None = None,
    ) -> None:
        """A request became no connection.

        Args:
            reporter: which side this agent is on.
            source: who asked.
            service: only if it exists: its name becomes a label.
            code: the verdict.
            stage: who gave it; see `refused_labels`.
            version: the one that was chosen, from the documents.
        """
        key = (
            reporter,
            source.namespace if source else UNKNOWN,
            source.name if source else UNKNOWN,
            service.namespace if service else UNKNOWN,
            service.meshlet if service else UNKNOWN,
            service.service if service else UNKNOWN,
            version or UNKNOWN,
            *refused_labels(code, stage),
        )
        now = self._clock()
        count = self._refused.get(key)
        if count is None:
            self._sweep_if_due(now)
            count = self._refused[key] = _Count()
        count.value += 1
        count.last_used = now

    def revocation_ignored(self, connection: Connection) -> None:
        """The client of a handed-over connection did not stop when it was told to; the connection has not been closed yet."""
        flow = connection.flow
        assert isinstance(flow, _Flow), "only what was opened is revoked"
        flow.ignored += 1

    def decided(self, action: str, reporter: str) -> None:
        """The authorizers answered."""
        key = (action, _ENFORCE, reporter)
        self._decisions[key] = self._decisions.get(key, 0) + 1

    def handshake(self, role: str, result: str) -> None:
        """A secure handshake ended; `result` is "ok" or a low-cardinality reason."""
        key = (role, result)
        if key not in self._handshakes and len(self._handshakes) >= _MAX_RESULTS:
            key = (role, _OTHER)
        self._handshakes[key] = self._handshakes.get(key, 0) + 1

    @property
    def series(self) -> int:
        """Kinds of connections and of refusals that are remembered."""
        return len(self._flows) + len(self._refused)

    def text(self) -> bytes:
        """Everything in Prometheus' text format (version 0.0.4)."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Make the families; called by the exposition."""
        self._sweep(self._clock())
        live: dict[_FlowKey, tuple[int, int]] = {}
        for connection in self._connections:
            if connection.relay is not None:
                sent, received = live.get(_key(connection), (0, 0))
                live[_key(connection)] = (
                    sent + connection.relay.bytes_to_service,
                    received + connection.relay.bytes_to_client,
                )
        yield from self._flow_families(live)
        refused = {labels: count.value for labels, count in self._refused.items()}
        yield _filled(_counter("meshless_connections_refused_total"), refused)
        yield _filled(_counter("meshless_authz_decisions_total"), self._decisions)
        yield _filled(_counter("meshless_tunnel_handshakes_total"), self._handshakes)
        times = _histogram("meshless_plugin_hook_seconds")
        for hook, measured in self._hooks.times.items():
            times.add_metric(hook, measured.buckets(), measured.total)
        yield times
        yield _filled(_counter("meshless_plugin_failures_total"), self._hooks.failures)
        for name, values in self._gauges().items():
            yield _filled(_counter(name) if METRICS_BY_NAME[name].type == "counter" else _gauge(name), values)
        info = InfoMetricFamily("meshless_build", METRICS_BY_NAME["meshless_build"].help, labels=())
        info.add_metric((), self._build)
        yield info

    def _flow_families(self, live: Mapping[_FlowKey, tuple[int, int]]) -> Iterator[Metric]:
        opened = _counter("meshless_connections_opened_total")
        closed = _counter("meshless_connections_closed_total")
        sent = _counter("meshless_sent_bytes_total")
        received = _counter("meshless_received_bytes_total")
        ignored = _counter("meshless_revocations_ignored_total")
        active = _gauge("meshless_connections_active")
        connect = _histogram("meshless_connect_duration_seconds")
        duration = _histogram("meshless_connection_duration_seconds")
        for key, flow in self._flows.items():
            live_sent, live_received = live.get(key, (0, 0))
            opened.add_metric(flow.labels, flow.opened)
            for how, count in flow.closings().items():
                closed.add_metric((*flow.labels, *how), count)
            active.add_metric(flow.labels, flow.active)
            sent.add_metric(flow.labels, flow.sent + live_sent)
            received.add_metric(flow.labels, flow.received + live_received)
            if flow.ignored:
                ignored.add_metric(flow.labels, flow.ignored)
            connect.add_metric(flow.labels, flow.connect.buckets(), flow.connect.total)
            duration.add_metric(flow.labels, flow.duration.buckets(), flow.duration.total)
        yield from (opened, closed, active, sent, received, ignored, connect, duration)

    def _flow(self, connection: Connection) -> _Flow:
        key = _key(connection)
        now = self._clock()
        flow = self._flows.get(key)
        if flow is None:
            self._sweep_if_due(now)
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
        flow.last_used = now
        return flow

    def _sweep_if_due(self, now: float) -> None:
        """Forget also while nobody scrapes: an agent without a scraper must not grow with every meshlet that ever was."""
        if now - self._swept > _EXPIRE_SECONDS:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        self._swept = now
        before = now - _EXPIRE_SECONDS
        for key in [key for key, flow in self._flows.items() if not flow.active and flow.last_used < before]:
            del self._flows[key]
        for labels in [labels for labels, count in self._refused.items() if count.last_used < before]:
            del self._refused[labels]


_Labels = TypeVar("_Labels", bound=tuple[str, ...])


def _counter(name: str) -> CounterMetricFamily:
    info = METRICS_BY_NAME[name]
    return CounterMetricFamily(name.removesuffix("_total"), info.help, labels=info.labels)


def _gauge(name: str) -> GaugeMetricFamily:
    info = METRICS_BY_NAME[name]
    return GaugeMetricFamily(name, info.help, labels=info.labels)


def _histogram(name: str) -> HistogramMetricFamily:
    info = METRICS_BY_NAME[name]
    return HistogramMetricFamily(name, info.help, labels=info.labels)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[_Labels, float] | Mapping[_Labels, int]) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _key(connection: Connection) -> _FlowKey:
    return connection.reporter, connection.source, connection.service, connection.endpoint.version
