from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_sdk.errors import AgentUnavailable, ConnectError, InvalidServiceId, ProtocolError
from meshless_sdk.wire import Reply, encode_request, is_service_name

FILE = Path(__file__).parents[3] / "protocol" / "vectors" / "handshake-v1.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
CLIENT: list[dict[str, Any]] = VECTORS["client"]


def joined(fields: list[str]) -> bytes:
    return b"".join(map(bytes.fromhex, fields))


def run(vector: dict[str, Any], sizes: list[int]) -> tuple[dict[str, Any], int | str | None]:
    """Read the reply as a socket would give it, `sizes` bytes at a time at most, never more than wanted."""
    reply, wire, taken = Reply(vector["service_id"]), joined(vector["reply"]), 0
    while reply.wanted:
        size = min(reply.wanted, sizes[taken % len(sizes)])
        part = wire[taken : taken + size]
        if not part and not vector["eof"]:
            return {"event": "incomplete"}, None
        taken += len(part)
        after = taken if part else "eof"
        try:
            reply.receive_data(part)
        except ConnectError as error:
            return {"event": "refused", "code": error.code, "name": error.name}, after
        except ProtocolError:
            return {"event": "protocol_error"}, after
        except AgentUnavailable:
            return {"event": "closed"}, after
    return {"event": "established", "trailing": wire[taken:].hex()}, taken


@pytest.mark.parametrize("vector", CLIENT, ids=lambda vector: str(vector["name"]))
def test_every_vector_holds_whole_and_byte_by_byte(vector: dict[str, Any]) -> None:
    assert encode_request(vector["service_id"]) == joined(vector["request"])
    assert run(vector, [2])[0] == vector["expect"]
    assert run(vector, [1]) == (vector["expect"], vector["verdict_after"])


@given(st.sampled_from(CLIENT), st.lists(st.integers(1, 2), min_size=2, max_size=4))
def test_every_vector_holds_however_it_is_split(vector: dict[str, Any], sizes: list[int]) -> None:
    assert run(vector, sizes)[0] == vector["expect"]


@given(st.lists(st.binary(max_size=2), max_size=4))
def test_any_bytes_give_a_reply_or_an_error_of_ours(parts: list[bytes]) -> None:
    reply = Reply("http.cart.shop")
    try:
        for part in parts:
            if not reply.wanted:
                break
            reply.receive_data(part[: reply.wanted])
    except (ConnectError, ProtocolError, AgentUnavailable):
        pass


def rejected_by_the_agent() -> list[str]:
    bad = []
    for vector in VECTORS["server"]:
        if vector["expect"].get("code") == 2 and len(vector["request"]) == 3 and not vector["eof"]:
            data = joined(vector["request"])
            bad.append(data[2 : 2 + data[1]].decode("latin-1"))
    assert len(bad) > 20
    return bad


@pytest.mark.parametrize("text", [*rejected_by_the_agent(), ""], ids=ascii)
def test_what_the_agent_would_reject_is_never_sent(text: str) -> None:
    with pytest.raises(InvalidServiceId, match=r"is not a service id: write <service>\.<meshlet>\.<namespace>"):
        encode_request(text)


@pytest.mark.parametrize("what", [b"http.cart.shop", None, 7])
def test_what_is_no_text_is_no_service_id(what: object) -> None:
    with pytest.raises(InvalidServiceId, match="is not a service id"):
        encode_request(cast("str", what))


def test_a_service_name_is_one_dns_label() -> None:
    assert is_service_name("http-2")
    for name in ("", "a.b", "-a", "a-", "A", "a/b", "a\n", "é", "x" * 64):
        assert not is_service_name(name)
