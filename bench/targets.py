"""What Meshless set out to reach, and whether this run reached it. Pure: samples in, verdicts out."""

from __future__ import annotations

import attrs

from bench.ratios import added_latency, by_round, ratios
from bench.results import Results

__all__ = ["TARGETS", "Verdict", "verdicts"]


@attrs.frozen
class _RateTarget:
    path: str
    base: str
    work: str
    at_least: float


TARGETS = (
    _RateTarget("meshless", "haproxy", "echo-32", 0.80),
    _RateTarget("meshless", "haproxy", "bulk", 1.5),
    _RateTarget("meshless", "haproxy", "connect", 0.75),
    _RateTarget("meshless-handoff", "direct-unix", "echo-1", 0.95),
    _RateTarget("meshless-handoff", "direct-unix", "echo-32", 0.95),
    _RateTarget("meshless-handoff", "direct-unix", "bulk", 0.95),
    _RateTarget("meshless-handoff", "direct-tcp", "echo-32", 1.0),
    _RateTarget("meshless-handoff", "direct-tcp", "bulk", 1.0),
    _RateTarget("meshless-tls", "haproxy-tls", "echo-32", 0.45),
    _RateTarget("meshless-tls", "haproxy-tls", "bulk", 1.5),
    _RateTarget("meshless-tls", "haproxy-tls", "connect", 1.5),
)
_ADDED_P50_MICROSECONDS = 60.0
_AGENT_MEGABYTES = 60.0


@attrs.frozen
class Verdict:
    """A target beside what was measured; `reached` is None when this run did not measure it."""

    what: str
    target: str
    measured: str
    reached: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """All targets, in a fixed order."""
    found = []
    for target in TARGETS:
        mine = by_round(results.samples, target.path, target.work, lambda sample: sample.rate)
        base = by_round(results.samples, target.base, target.work, lambda sample: sample.rate)
        ratio = ratios(mine, base)
        found.append(
            Verdict(
                f"{target.path} {target.work} / {target.base}",
                f">= {target.at_least:.2f}",
                "not measured" if ratio is None else f"{ratio.median:.2f}",
                None if ratio is None else ratio.median >= target.at_least,
            )
        )
    return [*found, _added_latency(results), _agent_memory(results)]


def _added_latency(results: Results) -> Verdict:
    mine = by_round(results.samples, "meshless", "echo-1", lambda sample: sample.p50_us)
    direct = by_round(results.samples, "direct-unix", "echo-1", lambda sample: sample.p50_us)
    added = added_latency(mine, direct)
    return Verdict(
        "meshless echo-1 p50 minus direct-unix",
        f"< {_ADDED_P50_MICROSECONDS:.0f} us",
        "not measured" if added is None else f"{added.median:.1f} us",
        None if added is None else added.median < _ADDED_P50_MICROSECONDS,
    )


def _agent_memory(results: Results) -> Verdict:
    sizes = [
        size / 1e6
        for path in ("meshless", "meshless-tls")
        if (finding := results.memory_of(path)) is not None
        for size in finding.resident_at_start.values()
    ]
    return Verdict(
        "largest agent at start, resident",
        f"< {_AGENT_MEGABYTES:.0f} MB",
        f"{max(sizes):.1f} MB" if sizes else "not measured",
        max(sizes) < _AGENT_MEGABYTES if sizes else None,
    )
