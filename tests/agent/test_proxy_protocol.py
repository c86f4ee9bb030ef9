from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshless_core.agent.proxy_protocol import encode_proxy_header
from meshless_core.types import Identity, PodRef, ServiceId

FILE = Path(__file__).parents[2] / "protocol" / "vectors" / "proxy-v2.json"
WRITTEN = [vector for vector in json.loads(FILE.read_text("utf-8"))["vectors"] if vector["written"]]


@pytest.mark.parametrize("vector", WRITTEN, ids=lambda vector: str(vector["name"]))
def test_every_vector_that_an_agent_writes_is_written_so(vector: dict[str, Any]) -> None:
    peer = vector["expect"]["peer"]
    header = encode_proxy_header(
        connection_id=bytes.fromhex(peer["connection_id"]),
        service=ServiceId.parse(peer["service_id"]),
        source=Identity.parse(peer["identity"]),
        source_pod=PodRef(peer["namespace"], peer["pod"]) if "pod" in peer else None,
    )
    assert header.hex() == "".join(vector["bytes"])


def test_the_longest_names_fit_into_two_kibibytes() -> None:
    label = "a" * 63
    domain = ".".join([label, label, label, "a" * 61])
    header = encode_proxy_header(
        connection_id=bytes(16),
        service=ServiceId(label, label, label),
        source=Identity(domain, label, label),
        source_pod=PodRef(label, "p" * 253),
    )
    assert len(header) < 2048
    assert int.from_bytes(header[14:16], "big") == len(header) - 16


def test_there_are_two_vectors_that_an_agent_writes() -> None:
    assert len(WRITTEN) == 2
