"""`protocol/vectors/handshake-http.json` holds for the plugin, byte by byte and in larger pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from meshless_handshake_http.handshake import HttpHandshake, State

from meshless_core.errors import RemoteProtocolError
from meshless_core.types import ReplyCode

FILE = Path(__file__).parents[2] / "protocol" / "vectors" / "handshake-http.json"
SERVER: list[dict[str, Any]] = json.loads(FILE.read_text("utf-8"))["server"]


def run(data: bytes, size: int) -> dict[str, Any]:
    """The outcome in the file's words."""
    handshake, forwarded = HttpHandshake(16 * 1024), b""
    for at in range(0, len(data), size):
        part = data[at : at + size]
        try:
            if handshake.state is State.ESTABLISHED:
                forwarded += handshake.filter_data(part)
            elif request := handshake.receive_data(part):
                assert str(request.service_id) == "http.cart.shop"
                forwarded += handshake.trailing_data
                handshake.reply(ReplyCode.OK)
        except RemoteProtocolError as error:
            if handshake.state is State.ESTABLISHED:
                return {"event": "forwarded", "forwarded": forwarded.decode("latin-1"), "then": "cut"}
            status = int(handshake.reply(ReplyCode(error.code), str(error))[9:12])
            return {"event": "refused", "status": status, "code": error.code}
    return {"event": "forwarded", "forwarded": forwarded.decode("latin-1"), "then": "open"}


def expected(vector: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in vector.items() if key not in {"name", "bytes"}}


@pytest.mark.parametrize("vector", SERVER, ids=[vector["name"] for vector in SERVER])
def test_every_vector_holds_byte_by_byte(vector: dict[str, Any]) -> None:
    assert run(vector["bytes"].encode("latin-1"), 1) == expected(vector)


@pytest.mark.parametrize("size", [2, 7, 40, 100_000])
@pytest.mark.parametrize("vector", SERVER, ids=[vector["name"] for vector in SERVER])
def test_no_vector_lets_more_pass_in_larger_pieces(vector: dict[str, Any], size: int) -> None:
    outcome, wanted = run(vector["bytes"].encode("latin-1"), size), expected(vector)
    if wanted.get("then") != "cut":
        assert outcome == wanted
    elif outcome["event"] == "forwarded":
        assert outcome["then"] == "cut"
        assert wanted["forwarded"].startswith(outcome["forwarded"])
    else:
        assert outcome["status"] >= 400
