from __future__ import annotations

from xml.etree import ElementTree

from bench.plot import as_svg
from bench.results import Results
from bench.works import Sample


def sample(path: str, rate: float) -> Sample:
    return Sample(path, "bulk", 0, rate, 1, 1.0, 0.0, 0.0, 0.0, None, None, None)


def test_the_picture_is_well_formed_and_shows_each_ratio() -> None:
    results = Results({}, {}, [sample("haproxy", 4.0), sample("meshless", 6.0), sample("direct-unix", 40.0)])
    texts = [node.text for node in ElementTree.fromstring(as_svg(results)).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["same node: bytes one way, 1 connection, ratio to haproxy", "haproxy", "1.00", "meshless", "1.50"]


def test_a_run_without_ratios_is_an_empty_picture() -> None:
    assert ElementTree.fromstring(as_svg(Results({}, {}))).tag.endswith("svg")
