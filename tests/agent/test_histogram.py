from __future__ import annotations

from meshless_core.agent.histogram import Histogram


def test_a_bucket_holds_what_is_at_most_its_bound_and_all_that_is_below() -> None:
    histogram = Histogram.make((0.1, 1.0))
    for value in (0.05, 0.1, 0.2, 7.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 7.35
