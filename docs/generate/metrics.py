"""The page of metrics: name, type, labels and help of everything an agent exports, and what the words in its labels mean."""

from __future__ import annotations

from typing import Final

from docs.generate.page import GenerationError, Page, fenced, table, titled
from meshless_core.agent.flags import CLOSED_FLAGS, REFUSED_REASONS
from meshless_core.agent.hook_times import HOOKS, SAMPLE_EVERY
from meshless_core.agent.metric_table import METRICS, MetricInfo

__all__ = ["PAGE", "exported_name"]

_INTRODUCTION: Final = """\
What an agent exports on `/metrics` of its admin socket or port (setting `agent.admin`), in the Prometheus text format. No label
holds a pod, an address or text that a peer chose; a name nobody declared is `unknown`. Series with names of meshlets are
forgotten after ten idle minutes. Bytes grow during a connection, not only at its end. With several workers (`agent.workers`)
the node's value is their sum, or the highest or lowest of theirs, as the column *of workers* says."""

_CLOSED: Final = """\
`meshless_connections_closed_total` and the [access log](access-log.md) say it in two words. `reason` is the outcome: `closed`,
`reset`, `idle_timeout`, `aborted` or `error`. `flags` says who or what it was:"""

_WHERE: Final = """\
Both are on what has ended, or never began: a connection that is open has no flags yet, and its bytes would have to move from
one series to another at its end (ADR-0110)."""

_REFUSED: Final = """\
`meshless_connections_refused_total`: `reason` is the class to alert on, `flags` the [reply code](reply-codes.md) in lower case.
`handshake_timeout` is a client that did not finish its request, `client_gone` one that left before it was answered."""

_HOOKS: Final = """\
`meshless_plugin_hook_seconds`, by the plugin's name in `meshless.yaml`. Calls on the way of every connection are measured at
random (ADR-0111): averages and quantiles hold, `_count` is not the number of calls; `meshless_authz_decisions_total` and
`meshless_connections_opened_total` are. Failures are all counted, in `meshless_plugin_failures_total`: `raised` (also an answer
that is none), `timeout`, and `busy` (not asked, since too many questions wait already)."""

_QUERY: Final = """\
topk(3, sum by (plugin, hook) (rate(meshless_plugin_hook_seconds_sum[5m]))
  / sum by (plugin, hook) (rate(meshless_plugin_hook_seconds_count[5m])))"""


def exported_name(metric: MetricInfo) -> str:
    """The name as a scrape shows it; the text format gives an info metric a suffix."""
    return f"{metric.name}_info" if metric.type == "info" else metric.name


def _render() -> str:
    rows = []
    for metric in METRICS:
        if not metric.help:
            raise GenerationError(f"metric {metric.name} has no help text")
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        rows.append((f"`{exported_name(metric)}`", metric.type, labels, metric.of_workers, metric.help))
    header = ("metric", "type", "labels", "of workers", "meaning")
    parts = [table(header, rows), *_endings(), *_hooks()]
    return titled("Metrics", "meshless_core/agent/metric_table.py", _INTRODUCTION, parts)


def _endings() -> list[str]:
    refused = [(f"`{reason}`", f"`{code.name.lower()}`") for code, reason in REFUSED_REASONS.items()]
    refused += [("`bad_request`", "`handshake_timeout`"), ("`client_gone`", "`client_gone`")]
    return [
        "## How a connection ended",
        _CLOSED,
        table(("flags", "meaning"), [(f"`{word}`", meaning) for word, meaning in CLOSED_FLAGS.items()]),
        _WHERE,
        "## Why there was none",
        _REFUSED,
        table(("reason", "flags"), refused),
    ]


def _hooks() -> list[str]:
    rows = [(f"`{one.hook}`", one.kind, f"1 of {SAMPLE_EVERY}" if one.sampled else "all", one.meaning) for one in HOOKS]
    return [
        "## Which plugin makes connections slow",
        _HOOKS,
        table(("hook", "kind of plugin", "measured", "meaning"), rows),
        "The slowest of the last five minutes, by mean seconds per call:",
        fenced(_QUERY, "promql"),
    ]


PAGE = Page("metrics.md", _render)
