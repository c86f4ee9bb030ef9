from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_sdk.errors import ProxyHeaderError
from meshless_sdk.proxy_protocol import MAX_HEADER_BYTES, Peer, ProxyHeader

FILE = Path(__file__).parents[3] / "protocol" / "vectors" / "proxy-v2.json"
VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text("utf-8"))["vectors"]


def run(vector: dict[str, Any], sizes: list[int]) -> tuple[dict[str, Any], int | str | None]:
    header, wire, taken, turn = ProxyHeader(), bytes.fromhex("".join(vector["bytes"])), 0, 0
    while header.wanted:
        part = wire[taken : taken + min(header.wanted, sizes[turn % len(sizes)])]
        if not part and not vector["eof"]:
            return {"event": "incomplete"}, None
        taken += len(part)
        turn += 1
        try:
            header.receive_data(part)
        except ProxyHeaderError:
            return {"event": "error"}, taken if part else "eof"
    peer = None if header.peer is None else {name: value for name, value in header.peer._asdict().items() if value}
    return {"event": "header", "peer": peer, "trailing": wire[taken:].hex()}, taken


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_every_vector_holds_whole_and_byte_by_byte(vector: dict[str, Any]) -> None:
    assert run(vector, [10_000])[0] == vector["expect"]
    assert run(vector, [1]) == (vector["expect"], vector["verdict_after"])


@given(st.sampled_from(VECTORS), st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_every_vector_holds_however_it_is_split(vector: dict[str, Any], sizes: list[int]) -> None:
    assert run(vector, sizes)[0] == vector["expect"]


FIXED = bytes.fromhex("0d0a0d0a000d0a515549540a2100")


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_header_or_an_error_of_ours_within_the_limit(data: bytes, plausible: bool) -> None:
    if plausible:
        data = FIXED + len(data).to_bytes(2, "big") + data
    header, taken = ProxyHeader(), 0
    while header.wanted:
        part = data[taken : taken + header.wanted]
        taken += len(part)
        assert taken <= MAX_HEADER_BYTES
        try:
            header.receive_data(part)
        except ProxyHeaderError:
            return
    assert header.peer is not None


def test_an_error_says_what_to_check_when_there_is_no_header() -> None:
    with pytest.raises(ProxyHeaderError, match="see that the service says proxyProtocol: v2 in the Meshlet"):
        ProxyHeader().receive_data(b"GET / HTTP/1.1\r\n")


def test_a_peer_shows_as_its_identity() -> None:
    assert str(Peer(identity="spiffe://mesh.local/ns/shop/meshlet/web")) == "spiffe://mesh.local/ns/shop/meshlet/web"
    assert str(Peer(namespace="shop")) == "shop/?"
