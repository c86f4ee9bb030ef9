"""What the checks of handshakes feed, and how they show it."""

from __future__ import annotations

import random

import pytest

from meshless_core import ReplyCode
from meshless_core.testing.handshake_drive import drive, hurt, pieces, shown, single_bytes
from tests.testing.line_protocol import HTTP, Filtering, Line, Talking

LINE = b"Lhttp.cart.shop\n"


@pytest.mark.parametrize("data", [b"", b"x", b"xy", LINE, bytes(1000)])
def test_pieces_are_the_data_and_none_is_empty(data: bytes) -> None:
    for seed in range(200):
        parts = pieces(random.Random(seed), data)
        assert b"".join(parts) == data
        assert data == b"" or all(parts)
    assert b"".join(single_bytes(data)) == data


def test_pieces_are_cut_everywhere() -> None:
    cuts = {len(pieces(random.Random(seed), LINE)[0]) for seed in range(1000)}
    assert cuts == set(range(1, len(LINE) + 1))


def test_what_is_hurt_begins_as_before_and_is_mostly_another() -> None:
    broken = [hurt(random.Random(seed), LINE) for seed in range(500)]
    assert {data[:1] for data in broken} == {b"L"}
    assert sum(data != LINE for data in broken) > 450
    assert len(set(broken)) > 400
    assert all(hurt(random.Random(seed), b"L")[:1] == b"L" for seed in range(100))


def test_an_outcome_tells_what_was_taken_said_and_left() -> None:
    came = drive(Talking(), [LINE[:3], LINE[3:], b"hel", b"lo"])
    assert (came.request, came.error, came.taken, came.said, came.behind) == (HTTP, None, len(LINE), b"hello\n", b"hello")
    refused = drive(Line(), [b"Lnothing\n", b"never fed"])
    assert refused.error is not None
    assert (refused.error.code, refused.taken, refused.behind) == (ReplyCode.MALFORMED_REQUEST, 9, b"")
    assert drive(Line(), [b"L"]).request is None


def test_behind_the_request_a_filter_is_asked_once_yes_was_said() -> None:
    came = drive(Filtering(), [LINE, LINE[:4], LINE[4:]], answer=True)
    assert (came.behind, came.cut) == (LINE * 2, None)
    cut = drive(Filtering(), [LINE, b"Lother.cart.shop\n"], answer=True)
    assert cut.behind == LINE
    assert cut.cut is not None


def test_long_data_is_shown_by_its_beginning() -> None:
    assert shown(b"ab") == "b'ab'"
    assert shown(b"a" * 1000) == f"{b'a' * 256!r}... of 1000 bytes"
