"""Checks of what a client handshake can do besides: speak before the request, filter after it, be a lease.

Each does nothing for a handshake without that ability. `handshake` calls them; they must not check requests and replies as
such.
"""

from __future__ import annotations

import random
from typing import Any, Final

import attrs

from meshless_core.testing.handshake_drive import (
    DETAILS,
    Example,
    MakeProtocol,
    accept,
    drive,
    hurt,
    pieces,
    refuse,
    shown,
    single_bytes,
)
from meshless_core.types import ReplyCode

__all__ = ["check_filter", "check_lease", "check_said_once"]

_CODES: Final = (ReplyCode.TIMEOUT, ReplyCode.ACCESS_DENIED)
_FILLS: Final = (b"\x00", b"a", b"\xff", b"\r\n")
_CHUNK: Final = 4096
_TRIES: Final = 100


def check_said_once(make: MakeProtocol, example: Example) -> None:
    """A client hears the same, each byte once, however its own bytes were cut: before the request, or with the reply."""
    if not hasattr(make(), "data_to_send"):
        return
    data = example[0]
    head = drive(make(), single_bytes(data)).taken
    for size in range(1, head + 1):
        for code in (*_CODES, ReplyCode.OK) if size == head else _CODES:
            heard = []
            for parts in (single_bytes(data[:size]), [data[:size]]):
                handshake = make()
                said = drive(handshake, parts).said
                when = f"after {shown(data[:size])}"
                heard.append(said + (refuse(handshake, code, "", DETAILS, when) if code else accept(handshake, when)))
            slowly, at_once = heard
            assert slowly == at_once, (
                "what data_to_send has not said yet comes in front of the reply, each byte once;"
                f" {code.name} {when} is {shown(at_once)} fed whole and {shown(slowly)} fed byte by byte"
            )


def check_filter(make: MakeProtocol, example: Example, dice: random.Random, most: int) -> None:
    """A filter gives of the client's bytes what may pass, in order, holds back a bounded number, and takes an end-of-file."""
    if not _filters(make, example):
        return
    data = example[0]
    for _ in range(_TRIES):
        more = dice.choice((data, hurt(dice, data), dice.randbytes(dice.randrange(1, 64))))
        parts = [data, *pieces(dice, more), b""]
        came = drive(make(), parts, answer=True)
        assert _within(came.behind, data + more), (
            f"a filter lets bytes through that came, in order; of {shown(data + more)} it made {shown(came.behind)}"
        )
    for fill in (*_FILLS, data):
        _check_bounded(make, example, (fill * (_CHUNK // len(fill) + 1))[:_CHUNK], most)


def check_lease(make: MakeProtocol, example: Example) -> None:
    """A lease has both notices."""
    data, request, behind = example
    if not hasattr(make(), "notice") or not request.accepts_descriptor or behind:
        return
    handshake: Any = make()
    drive(handshake, [data])
    accept(handshake, f"with a descriptor after {shown(data)}", attrs.evolve(DETAILS, descriptor_follows=True))
    for kind in ("drain", "revoked"):
        try:
            notice: object = handshake.notice(kind, "both pods restart")
        except Exception as error:
            raise AssertionError(f"a lease has a notice {kind!r}; it raised {error!r}") from error
        assert isinstance(notice, bytes), f"a notice is bytes; {kind!r} gave {notice!r}"


def _filters(make: MakeProtocol, example: Example) -> bool:
    handshake: Any = make()
    if not hasattr(handshake, "filter_data"):
        return False
    drive(handshake, [example[0]], answer=True)
    return bool(handshake.filtering)


def _check_bounded(make: MakeProtocol, example: Example, chunk: bytes, most: int) -> None:
    data, _, behind = example
    more = [chunk] * (most // len(chunk) + 2)
    came = drive(make(), [data, *more], answer=True)
    held = len(behind) + len(chunk) * len(more) - len(came.behind)
    assert came.cut is not None or held <= most, (
        f"a filter holds back a bounded number of bytes, at most {most}; of {shown(chunk)} again and again it held {held}"
    )


def _within(part: bytes, whole: bytes) -> bool:
    """Whether the bytes of `part` are among those of `whole` in the same order."""
    left = iter(whole)
    return all(byte in left for byte in part)
