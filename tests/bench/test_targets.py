from __future__ import annotations

import pytest

from bench.results import MemoryFinding, Results
from bench.targets import Verdict, verdicts
from bench.works import Sample


def results(*samples: tuple[str, str, float, float], agent_bytes: int | None = None) -> Results:
    found = Results({}, {})
    for path, work, rate, p50 in samples:
        found.samples.append(Sample(path, work, 0, rate, 1, 1.0, 0.0, 0.0, 0.0, p50, None, None))
    if agent_bytes is not None:
        found.memory.append(MemoryFinding("meshless", {"agent a": agent_bytes}, {"agent a": 1}, 0, 10, 1.0))
    return found


def verdict(found: Results, what: str) -> Verdict:
    return next(one for one in verdicts(found) if what in one.what)


@pytest.mark.parametrize(("rate", "reached"), [(80.0, True), (79.0, False)])
def test_a_rate_target_is_reached_at_its_bound(rate: float, reached: bool) -> None:
    found = results(("meshless", "echo-32", rate, 0.0), ("haproxy", "echo-32", 100.0, 0.0))
    assert verdict(found, "meshless echo-32").reached is reached


@pytest.mark.parametrize(("p50", "reached"), [(99.0, True), (100.0, False)])
def test_added_latency_is_compared_with_the_bare_unix_socket(p50: float, reached: bool) -> None:
    found = results(("meshless", "echo-1", 1.0, p50), ("direct-unix", "echo-1", 1.0, 40.0))
    assert verdict(found, "p50").reached is reached


@pytest.mark.parametrize(("size", "reached"), [(59_900_000, True), (60_000_000, False)])
def test_the_agent_must_stay_below_its_memory_target(size: int, reached: bool) -> None:
    assert verdict(results(agent_bytes=size), "agent").reached is reached


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    found = verdicts(results())
    assert len(found) == 13
    assert {one.reached for one in found} == {None}
    assert {one.measured for one in found} == {"not measured"}
