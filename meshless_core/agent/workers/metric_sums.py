"""The workers' metrics as those of one agent.

Counters are added up. A sum must not fall when a worker dies or forgets a series it has not used for long: a scraper would take
that for a restart of the whole agent and count everything again. So what a worker had counted last stays in the sum, as long as
any other worker still has the series. Gauges are added or not as `MetricInfo.of_workers` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from meshless_core.agent.metric_table import METRICS

__all__ = ["MetricSums"]

_Series = tuple[str, tuple[tuple[str, str], ...]]
_Values = dict[_Series, float]

_CUMULATIVE: Final = frozenset({"counter", "histogram"})
_JOIN: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {"sum": sum, "max": max, "min": min}
_RULES: Final = {f"{info.name}_info" if info.type == "info" else info.name: _JOIN[info.of_workers] for info in METRICS}


class MetricSums:
    """Remembers what each worker counted, by any key that a restarted worker does not have again."""

    def __init__(self) -> None:
        self._last: dict[object, _Values] = {}
        self._departed: _Values = {}

    def merge(self, answers: Mapping[object, str | None]) -> bytes:
        """Prometheus' text for all workers.

        Args:
            answers: what each living worker answered; None if it lives and did not: then what it last said counts on.
        """
        families: dict[str, Metric] = {}
        gauges: dict[_Series, list[float]] = {}
        counted: dict[object, _Values] = {}
        for worker, text in answers.items():
            if text is None:
                counted[worker] = self._last.get(worker, {})
                continue
            counted[worker] = {}
            for family in text_string_to_metric_families(text):
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    series = (sample.name, tuple(sorted(sample.labels.items())))
                    if family.type in _CUMULATIVE:
                        counted[worker][series] = sample.value
                    else:
                        gauges.setdefault(series, []).append(sample.value)
        values = self._sum(counted)
        values.update({series: _RULES.get(series[0], sum)(found) for series, found in gauges.items()})
        for (name, labels), value in values.items():
            family_name = _family_of(name, families)
            if family_name is not None:
                families[family_name].add_sample(name, dict(labels), value)
        return generate_latest(_Once(families.values()))

    def _sum(self, counted: dict[object, _Values]) -> _Values:
        for worker, last in self._last.items():
            now = counted.get(worker, {})
            for series, value in last.items():
                if now.get(series, -1.0) < value:
                    self._departed[series] = self._departed.get(series, 0.0) + value
        self._last = counted
        total: _Values = {}
        for values in counted.values():
            for series, value in values.items():
                total[series] = total.get(series, 0.0) + value
        self._departed = {series: value for series, value in self._departed.items() if series in total}
        for series, value in self._departed.items():
            total[series] += value
        return total


class _Once(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _family_of(sample: str, families: Mapping[str, Metric]) -> str | None:
    """The family a sample belongs to; None if nobody answered who knows it."""
    if sample in families:
        return sample
    for suffix in ("_total", "_bucket", "_count", "_sum"):
        if sample.endswith(suffix) and sample.removesuffix(suffix) in families:
            return sample.removesuffix(suffix)
    return None
