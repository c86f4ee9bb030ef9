"""The page of metrics: name, type, labels and help of everything an agent exports."""

from __future__ import annotations

from docs.generate.page import GenerationError, Page, table, titled
from meshless_core.agent.metric_table import METRICS, MetricInfo

__all__ = ["PAGE", "exported_name"]


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
    introduction = (
        "What an agent exports on `/metrics` of its admin socket or port (setting `agent.admin`), in the Prometheus text "
        "format. No label holds a pod, an address or text that a peer chose. With several workers (`agent.workers`) the node's "
        "value is their sum, or the highest or lowest of theirs, as the column *of workers* says."
    )
    header = ("metric", "type", "labels", "of workers", "meaning")
    return titled("Metrics", "meshless_core/agent/metric_table.py", introduction, [table(header, rows)])


PAGE = Page("metrics.md", _render)
