from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.paths import ALL_PATHS
from bench.report import print_report, ratio_of
from bench.results import Failure, MemoryFinding, Results
from bench.works import ALL_WORKS, Sample


def results() -> Results:
    found = Results({}, {})
    for number in range(3):
        for path in ALL_PATHS:
            for work in ALL_WORKS:
                rate = 2000.0 if path.name.startswith("meshless") else 1000.0
                found.samples.append(Sample(path.name, work.name, number, rate, 10, 1.0, 0.5, 0.05, 0.1, 50.0, 90.0, 99.0))
    found.memory.append(MemoryFinding("meshless", {"agent a": 41_000_000}, {"agent a": 30_000_000}, 1, 2000, 11_500.0))
    found.failures.append(Failure("nginx", "bulk", 1, "closed [/early]"))
    return found


def printed(found: Results) -> str:
    text = io.StringIO()
    print_report(found, Console(file=text, width=250))
    return text.getvalue()


def test_the_report_shows_ratios_targets_memory_and_failures() -> None:
    text = printed(results())
    assert "2.00 (2.00..2.00)" in text
    assert "agent a 41.0 MB (30.0)" in text
    assert "11.5 kB of 2000" in text
    assert "not measured nginx bulk round 2: closed [/early]" in text
    assert text.count("reached") == 13


def test_a_run_that_measured_nothing_still_reports_why() -> None:
    found = Results({}, {})
    found.failures.append(Failure("haproxy", None, None, "haproxy is missing"))
    assert "not measured haproxy: haproxy is missing" in printed(found)


@pytest.mark.parametrize("path", ALL_PATHS, ids=lambda path: path.name)
def test_every_path_is_compared_with_the_baseline_of_its_group(path: object) -> None:
    found = ratio_of(results(), path, "bulk")  # type: ignore[arg-type]  # parametrize gives objects
    assert found is not None
    assert found.median == (2.0 if path.name.startswith("meshless") else 1.0)  # type: ignore[attr-defined]  # as above
