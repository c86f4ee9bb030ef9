"""The metrics of all workers: sums that never fall, and gauges that mean what they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from meshless_core.agent.connections import ConnectionTable
from meshless_core.agent.hook_times import HookTimes
from meshless_core.agent.metric_table import METRICS
from meshless_core.agent.metrics import AgentMetrics
from meshless_core.agent.workers.metric_sums import MetricSums
from meshless_core.types import ReplyCode


class Source:
    """One worker's real metrics, with a counter and gauges that a test sets."""

    def __init__(self) -> None:
        self.gauges: dict[str, dict[tuple[str, ...], float]] = {}
        self.hooks = HookTimes()
        self.metrics = AgentMetrics(
            ConnectionTable(),
            gauges=lambda: self.gauges,
            clock=lambda: 0.0,
            build={"version": "1", "node": "n"},
            hooks=self.hooks,
        )

    def text(self) -> str:
        return self.metrics.text().decode()


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


def test_counters_are_added_up_by_their_labels() -> None:
    a, b = Source(), Source()
    a.metrics.decided("allow", "source")
    b.metrics.decided("allow", "source")
    b.metrics.decided("deny", "source")
    merged = MetricSums().merge({1: a.text(), 2: b.text()})
    assert value(merged, "meshless_authz_decisions_total", action="allow", mode="enforce", reporter="source") == 2
    assert value(merged, "meshless_authz_decisions_total", action="deny", mode="enforce", reporter="source") == 1


def test_gauges_are_added_or_not_as_their_meaning_wants() -> None:
    a, b = Source(), Source()
    for source, number in ((a, 3.0), (b, 5.0)):
        source.gauges = {
            "meshless_handshakes_pending": {(): number},
            "meshless_pods": {(): number},
            "meshless_sockets": {("server", "present"): number},
            "meshless_bus_messages_total": {("received", "applied"): number},
            "meshless_config_generation": {(): number},
            "meshless_config_age_seconds": {(): number},
            "meshless_bus_connected": {(): number - 3},
            "meshless_certificate_expiry_seconds": {("shop", "web"): number},
        }
    merged = MetricSums().merge({1: a.text(), 2: b.text()})
    assert value(merged, "meshless_handshakes_pending") == 8
    assert value(merged, "meshless_pods") == 5, "both have the same pods, one a moment later"
    assert value(merged, "meshless_sockets", role="server", state="present") == 5, "they are the same sockets"
    assert value(merged, "meshless_bus_messages_total", direction="received", result="applied") == 8, "each follows the bus"
    assert value(merged, "meshless_config_generation") == 3, "the node is as far as its last worker"
    assert value(merged, "meshless_config_age_seconds") == 5
    assert value(merged, "meshless_bus_connected") == 0
    assert value(merged, "meshless_certificate_expiry_seconds", namespace="shop", meshlet="web") == 3
    assert value(merged, "meshless_build_info", version="1", node="n") == 1


def test_the_times_of_plugins_are_added_up_bucket_by_bucket() -> None:
    a, b = Source(), Source()
    a.hooks.observe("opa", "authorize", 0.02)
    b.hooks.observe("opa", "authorize", 2.0)
    b.hooks.failed("opa", "authorize", "raised")
    merged = MetricSums().merge({1: a.text(), 2: b.text()})
    labels = {"plugin": "opa", "hook": "authorize"}
    assert value(merged, "meshless_plugin_hook_seconds_count", **labels) == 2
    assert value(merged, "meshless_plugin_hook_seconds_sum", **labels) == 2.02
    assert value(merged, "meshless_plugin_hook_seconds_bucket", le="0.05", **labels) == 1
    assert value(merged, "meshless_plugin_failures_total", reason="raised", **labels) == 1


def test_every_name_and_help_survives() -> None:
    source = Source()
    source.metrics.decided("allow", "source")
    alone = {family.name: family.documentation for family in text_string_to_metric_families(source.text())}
    merged = MetricSums().merge({1: source.text(), 2: source.text()}).decode()
    assert {family.name: family.documentation for family in text_string_to_metric_families(merged)} == alone
    assert alone.keys() <= {info.name.removesuffix("_total") for info in METRICS} | {"meshless_build_info"}


def test_what_a_dead_worker_counted_stays_while_another_has_the_series() -> None:
    a, b, sums = Source(), Source(), MetricSums()
    for _ in range(10):
        a.metrics.decided("allow", "source")
    b.metrics.decided("allow", "source")
    a.metrics.refused("source", None, None, ReplyCode.NOT_READY)
    labels = {"action": "allow", "mode": "enforce", "reporter": "source"}
    assert value(sums.merge({1: a.text(), 2: b.text()}), "meshless_authz_decisions_total", **labels) == 11
    merged = sums.merge({2: b.text()})
    assert value(merged, "meshless_authz_decisions_total", **labels) == 11
    assert not any(name == "meshless_connections_refused_total" for name, _ in samples(merged)), "nobody has it any more"
    fresh = Source()
    fresh.metrics.decided("allow", "source")
    assert value(sums.merge({3: fresh.text(), 2: b.text()}), "meshless_authz_decisions_total", **labels) == 12


def test_a_worker_that_does_not_answer_counts_as_it_last_did() -> None:
    a, b, sums = Source(), Source(), MetricSums()
    for source in (a, b):
        source.metrics.handshake("client", "ok")
    sums.merge({1: a.text(), 2: b.text()})
    b.metrics.handshake("client", "ok")
    merged = sums.merge({1: None, 2: b.text()})
    assert value(merged, "meshless_tunnel_handshakes_total", role="client", result="ok") == 3
    a.metrics.handshake("client", "ok")
    merged = sums.merge({1: a.text(), 2: b.text()})
    assert value(merged, "meshless_tunnel_handshakes_total", role="client", result="ok") == 4


def test_nobody_answering_is_an_empty_answer() -> None:
    assert MetricSums().merge({}) == b""
    assert MetricSums().merge({1: None}) == b""


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["count", "die", "silent"]), st.integers(0, 5)), max_size=40))
def test_a_sum_never_falls_whoever_dies_or_is_silent(steps: list[tuple[int, str, int]]) -> None:
    sums, before = MetricSums(), 0.0
    steady = "# HELP c_total help\n# TYPE c_total counter\nc_total 1.0\n"
    counts, names = [0, 0, 0], [0, 1, 2]
    for worker, what, by in steps:
        if what == "die":
            counts[worker], names[worker] = 0, names[worker] + 3
        counts[worker] += by
        answers: dict[object, str | None] = {"steady": steady}
        for index in range(3):
            silent = what == "silent" and index == worker
            answers[names[index]] = None if silent else f"# TYPE c_total counter\nc_total {counts[index]}.0\n"
        after = value(sums.merge(answers), "c_total")
        assert after is not None
        assert after >= before
        before = after
