"""What every client handshake promises, as one function: `check_handshake(make_protocol, examples)`.

A check cannot write requests of a protocol it does not know, so it is given examples: each is cut, broken, prolonged and ended
in all the ways that clients do it. What is random is drawn from a seed, so a failure comes again. This module checks requests
and refusals; what a handshake can do besides is checked by `handshake_abilities`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from meshless_core.hookspecs import ReplyDetails
from meshless_core.testing.handshake_abilities import check_filter, check_lease, check_said_once
from meshless_core.testing.handshake_drive import (
    DETAILS,
    REFUSALS,
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

__all__ = ["check_handshake"]

_TEXTS: Final = ("", "both pods restart", 'two\r\nlines, "quoted" \\ \x00 \N{SNOWMAN}', "x" * 10_000)
_DETAILS: Final = (
    None,
    ReplyDetails(connection_id=bytes(16)),
    DETAILS,
    ReplyDetails(connection_id=b"\xff" * 16, retry_after=3600.0),
)
_WAYS_TO_REFUSE: Final = tuple((code, text, details) for code in REFUSALS for text in _TEXTS for details in _DETAILS)
_SPLITS: Final = 20
_FILLS: Final = (b"\x00", b"a", b"\xff", b" ", b"\r\n", b"a: b\r\n")
_CHUNK: Final = 4096
_PLACES: Final = 50
"""Places of an example from which it is made endless."""


def check_handshake(
    make_protocol: MakeProtocol, examples: Iterable[Example], *, broken: int = 300, most: int = 64 * 1024, seed: int = 1
) -> None:
    """Check a handshake against the contract in `meshless_core.hookspecs.HandshakeProtocol`.

    What satisfies `InteractiveHandshake`, `FilteringHandshake` or `LeaseHandshake` too is held to that contract as well.

    Args:
        make_protocol: gives the protocol object of a new connection, as the factory does that `create` returns; called often.
        examples: requests that are right, at least one: what the client sends, the request that is in it, and the bytes of it
            that reach the service, which are those behind the request and, where it is forwarded itself, the request.
        broken: how many requests with mistakes in them to try, and how many that are noise.
        most: bytes after which a request that never ends has to be refused, and bytes a filter may hold back.
        seed: of everything random.

    Raises:
        AssertionError: a promise is broken; the message says which, with the bytes.
        ValueError: there is no example.
    """
    known = tuple(examples)
    if not known:
        raise ValueError("there is no example: give at least one request and what is to be made of it")
    assert make_protocol() is not make_protocol(), "each connection has a protocol object of its own"
    dice = random.Random(seed)  # noqa: S311 - the same bytes each time; nothing secret depends on it
    for example in known:
        _a_request_is_the_same_however_it_is_cut(make_protocol, example, dice)
        _every_refusal_can_be_said_before_ok(make_protocol, example)
        _an_end_of_file_in_the_middle_is_an_error(make_protocol, example)
        _a_request_without_end_is_refused(make_protocol, example, most)
        check_said_once(make_protocol, example)
        check_filter(make_protocol, example, dice, most)
        check_lease(make_protocol, example)
    for data in _broken_requests(dice, known, broken):
        _broken_bytes_get_a_verdict_and_a_reply(make_protocol, data, dice)


def _a_request_is_the_same_however_it_is_cut(make: MakeProtocol, example: Example, dice: random.Random) -> None:
    data, request, behind = example
    for parts in ([data], single_bytes(data), *(pieces(dice, data) for _ in range(_SPLITS))):
        came = drive(make(), parts, answer=True)
        how = f"{shown(data)} in {'one piece' if len(parts) == 1 else f'pieces of {[*map(len, parts)]} bytes'}"
        assert came.error is None, f"an example is a request; {how} was refused with {came.error!r}"
        assert came.cut is None, f"an example passes the filter; {how} was cut with {came.cut!r}"
        assert came.request == request, f"{how} has to give {request}, it gave {came.request}"
        assert came.behind == behind, f"of {how} {shown(behind)} has to reach the service, it was {shown(came.behind)}"


def _an_end_of_file_in_the_middle_is_an_error(make: MakeProtocol, example: Example) -> None:
    for size in range(1, _head(make, example)):
        _end(make, example[0][:size])


def _every_refusal_can_be_said_before_ok(make: MakeProtocol, example: Example) -> None:
    data, head = example[0], _head(make, example)
    for size in range(head + 1):
        one = _WAYS_TO_REFUSE[size % len(_WAYS_TO_REFUSE) : size % len(_WAYS_TO_REFUSE) + 1]
        for code, text, details in _WAYS_TO_REFUSE if size in {0, head // 2, head} else one:
            handshake = make()
            drive(handshake, [data[:size]] if size else [])
            refuse(handshake, code, text, details, f"after {shown(data[:size])}")


def _a_request_without_end_is_refused(make: MakeProtocol, example: Example, most: int) -> None:
    data, head = example[0], _head(make, example)
    for size in range(1, head, max(1, head // _PLACES)):
        for fill in (*_FILLS, data[size - 1 : size]):
            endless = (data[:size] + fill * (most // len(fill)))[:most]
            came = drive(make(), [endless[at : at + _CHUNK] for at in range(0, most, _CHUNK)])
            assert came.error is not None or came.request is not None, (
                f"a request that never ends has to be refused, within {most} bytes;"
                f" {shown(data[:size])} and then {fill!r} again and again was not"
            )


def _broken_requests(dice: random.Random, examples: tuple[Example, ...], count: int) -> Iterator[bytes]:
    for number in range(count):
        data = examples[number % len(examples)][0]
        yield hurt(dice, data)
        yield data[:1] + dice.randbytes(dice.randrange(64))


def _broken_bytes_get_a_verdict_and_a_reply(make: MakeProtocol, data: bytes, dice: random.Random) -> None:
    whole, cut = make(), make()
    came, again = drive(whole, [data]), drive(cut, pieces(dice, data))
    if not hasattr(whole, "filter_data"):  # a filter may see only later what a whole input shows at once
        same = (came.request, came.behind, came.error is None) == (again.request, again.behind, again.error is None)
        assert same, f"bytes mean the same however they are cut; {shown(data)} gave {came} in one piece, {again} in several"
    for handshake, outcome in ((whole, came), (cut, again)):
        when = f"after {shown(data)}"
        if outcome.error is not None:
            refuse(handshake, ReplyCode(outcome.error.code), str(outcome.error), DETAILS, when)
        elif outcome.request is not None:
            accept(handshake, when)
        else:
            refuse(handshake, ReplyCode.TIMEOUT, "", DETAILS, when)
    if came.request is None and came.error is None:
        _end(make, data)


def _end(make: MakeProtocol, data: bytes) -> None:
    """End the connection after `data`, which is no whole request."""
    handshake = make()
    came = drive(handshake, [data, b""])
    assert came.error is not None, (
        f"an end of file in the middle of a request is a RemoteProtocolError; after {shown(data)} it gave {came.request}"
    )
    refuse(handshake, ReplyCode(came.error.code), str(came.error), DETAILS, f"after {shown(data)} and the end of file")


def _head(make: MakeProtocol, example: Example) -> int:
    """Bytes of an example after which the request is complete."""
    return drive(make(), single_bytes(example[0])).taken
