"""`protocol/vectors/handshake-socks5.json` holds for the plugin, in the client's pieces, byte by byte, and all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from meshless_handshake_socks5.codes import REPLIES
from meshless_handshake_socks5.handshake import Socks5Handshake

from meshless_core.errors import RemoteProtocolError
from meshless_core.types import ReplyCode

FILE = Path(__file__).parents[2] / "protocol" / "vectors" / "handshake-socks5.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
SERVER: list[dict[str, Any]] = VECTORS["server"]


def run(parts: list[bytes]) -> dict[str, Any]:
    """The outcome in the file's words; a method selection that comes with the reply counts as sent."""
    handshake, sent = Socks5Handshake(), b""
    for index, part in enumerate(parts):
        try:
            request = handshake.receive_data(part)
        except RemoteProtocolError as error:
            sent += handshake.data_to_send()
            return {"event": "error", "sent": sent.hex(), "refusal": handshake.reply(ReplyCode(error.code)).hex()}
        sent += handshake.data_to_send()
        if request is not None:
            trailing = (handshake.trailing_data + b"".join(parts[index + 1 :])).hex()
            ok = handshake.reply(ReplyCode.OK).hex()
            return {
                "event": "request",
                "service_id": str(request.service_id),
                "sent": sent.hex(),
                "trailing": trailing,
                "ok": ok,
            }
    return {"event": "incomplete", "sent": sent.hex()}


def test_the_file_lists_the_reply_to_every_code() -> None:
    assert VECTORS["replies"] == [{"code": c.value, "name": c.name, "reply": REPLIES[c].value} for c in ReplyCode]


@pytest.mark.parametrize("vector", SERVER, ids=[vector["name"] for vector in SERVER])
@pytest.mark.parametrize("way", ["in pieces", "byte by byte", "at once"])
def test_every_vector_holds(vector: dict[str, Any], way: str) -> None:
    pieces = [bytes.fromhex(piece) for piece in vector["bytes"]]
    whole = b"".join(pieces)
    match way:
        case "byte by byte":
            pieces = [whole[at : at + 1] for at in range(len(whole))]
        case "at once":
            pieces = [whole]
    expected = {key: value for key, value in vector.items() if key not in {"name", "bytes", "eof"}}
    assert run([*pieces, b""] if vector["eof"] else pieces) == expected
