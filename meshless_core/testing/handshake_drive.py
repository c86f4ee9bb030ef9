"""Feeds a client handshake the way an agent does and holds it to the form its answers have, whatever the bytes are.

Every check of a handshake goes through `drive`, so what has to hold always is checked always: a request, None or a refusal and
nothing else; no bytes for the service before there is a request; what is said in between said once. Broken bytes are made here
too. This module must not know which bytes are right: `handshake` compares.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from meshless_core.errors import InvalidNameError, RemoteProtocolError
from meshless_core.hookspecs import HandshakeProtocol, HandshakeRequest, ReplyDetails
from meshless_core.testing.life import told
from meshless_core.types import ReplyCode, ServiceId

__all__ = [
    "DETAILS",
    "REFUSALS",
    "Example",
    "MakeProtocol",
    "Outcome",
    "accept",
    "drive",
    "hurt",
    "pieces",
    "refuse",
    "shown",
    "single_bytes",
]

MakeProtocol = Callable[[], HandshakeProtocol]
"""Makes the protocol object of a new connection."""

Example = tuple[bytes, HandshakeRequest, bytes]
"""What a client sends, the request that is in it, and the bytes of it that reach the service.

The last are what comes behind the request; where the request itself is forwarded, as HTTP's is, they are all of it.
"""

REFUSALS: Final = tuple(code for code in ReplyCode if code is not ReplyCode.OK)
DETAILS: Final = ReplyDetails(connection_id=bytes(range(16)), version="v2", endpoint="shop/cart-0", retry_after=0.5)
"""Details as an agent knows them when it has chosen an endpoint."""

_MOST_SAID: Final = 1000
"""Bytes a handshake may say in one go before there is a request: the contract has it at a few hundred."""


@attrs.frozen
class Outcome:
    """What came of the bytes of a connection.

    Attributes:
        request: the request, None if there is none yet.
        error: what refused the bytes, None if nothing did.
        taken: bytes fed until there was a request, or all that were fed.
        said: bytes for the client before there was a request.
        behind: bytes for the service, all that was fed behind the request included.
        cut: what the filter refused, None if nothing was.
    """

    request: HandshakeRequest | None
    error: RemoteProtocolError | None
    taken: int
    said: bytes
    behind: bytes = b""
    cut: RemoteProtocolError | None = None


def drive(handshake: HandshakeProtocol, parts: Sequence[bytes], *, answer: bool = False) -> Outcome:
    """Feed a fresh handshake until there is a verdict.

    Args:
        handshake: was fed nothing yet.
        parts: what is read from the client, b"" for end-of-file.
        answer: whether a request is answered with OK, and what comes behind it goes through the handshake's filter, if it has
            one; otherwise `behind` is all that is left of `parts`.

    Raises:
        AssertionError: what the handshake gave is no answer.
    """
    said, fed = b"", b""
    for index, part in enumerate(parts):
        fed += part
        try:
            request: object = handshake.receive_data(part)
        except RemoteProtocolError as error:
            if error.code not in REFUSALS:
                raise AssertionError(
                    f"a RemoteProtocolError carries the ReplyCode to refuse with; {shown(fed)} gave code {error.code!r}"
                ) from error
            return Outcome(None, error, len(fed), said)
        except (Exception, SystemExit) as error:
            raise AssertionError(
                f"receive_data gives a request, None or RemoteProtocolError, nothing else; {shown(fed)} gave {told(error)}"
            ) from error
        if inspect.iscoroutine(request):
            request.close()
            raise AssertionError("receive_data must not be async: nobody waits for it")
        behind: object = handshake.trailing_data
        assert isinstance(behind, bytes), f"trailing_data is bytes, not {behind!r}; that was after {shown(fed)}"
        if request is None:
            assert not behind, f"nothing is for the service before there is a request; {shown(fed)} gave {shown(behind)}"
            said += _said(handshake, fed)
            continue
        assert isinstance(request, HandshakeRequest), (
            f"receive_data gives a HandshakeRequest or None; {shown(fed)} gave {request!r}"
        )
        _check_name(request, fed)
        rest = parts[index + 1 :]
        if not answer:
            return Outcome(request, None, len(fed), said, behind + b"".join(rest))
        accept(handshake, f"after {shown(fed)}")
        behind, cut = _filtered(handshake, behind, rest)
        return Outcome(request, None, len(fed), said, behind, cut)
    return Outcome(None, None, len(fed), said)


def accept(handshake: HandshakeProtocol, when: str, details: ReplyDetails | None = DETAILS) -> bytes:
    """The reply OK to a request that is complete.

    Raises:
        AssertionError: it is none.
    """
    return _reply(handshake, ReplyCode.OK, "", details, f"OK may be said once the request is complete; {when}")


def refuse(handshake: HandshakeProtocol, code: ReplyCode, text: str, details: ReplyDetails | None, when: str) -> bytes:
    """The reply of a refusal.

    Raises:
        AssertionError: it is none.
    """
    return _reply(handshake, code, text, details, f"a refusal may be asked for in every state before OK; {code.name} {when}")


def shown(data: bytes) -> str:
    """Bytes as a message shows them."""
    return repr(data) if len(data) <= 256 else f"{data[:256]!r}... of {len(data)} bytes"


def single_bytes(data: bytes) -> list[bytes]:
    """`data` byte by byte."""
    return [data[at : at + 1] for at in range(len(data))]


def pieces(dice: random.Random, data: bytes) -> list[bytes]:
    """`data` cut at random places."""
    count = dice.randrange(min(6, len(data))) if data else 0
    cuts = sorted(dice.sample(range(1, len(data)), count)) if count else []
    return [data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)]


def hurt(dice: random.Random, data: bytes) -> bytes:
    """`data` with a few mistakes in it; the first byte, by which the handshake was chosen, stays."""
    broken = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(1, len(broken) + 1)
        match dice.randrange(6):
            case 0 if at < len(broken):
                broken[at] ^= 1 << dice.randrange(8)
            case 1:
                broken[at:at] = dice.randbytes(dice.randrange(1, 4))
            case 2:
                del broken[at : at + dice.randrange(1, 4)]
            case 3:
                broken[at:at] = broken[at : at + dice.randrange(16)]
            case 4:
                del broken[at:]
            case _:
                broken[at : at + 1] = dice.choice((b"\x00", b"\xff", b"\r\n", b"\n", b" ", b".", b":", b"\x80"))
    return bytes(broken)


def _said(handshake: HandshakeProtocol, fed: bytes) -> bytes:
    """What an interactive handshake has to say now."""
    if not hasattr(handshake, "data_to_send"):
        return b""
    interactive: Any = handshake
    try:
        said: object = interactive.data_to_send()
        again: object = interactive.data_to_send()
    except (Exception, SystemExit) as error:
        raise AssertionError(
            f"data_to_send gives bytes, it does not raise; after {shown(fed)} it gave {told(error)}"
        ) from error
    assert isinstance(said, bytes), f"data_to_send gives bytes, not {said!r}; that was after {shown(fed)}"
    assert len(said) <= _MOST_SAID, f"data_to_send gives at most a few hundred bytes; after {shown(fed)} it gave {len(said)}"
    assert again == b"", f"data_to_send gives each byte once; after {shown(fed)} it gave {again!r} when it was asked again"
    return said


def _filtered(handshake: HandshakeProtocol, behind: bytes, rest: Sequence[bytes]) -> tuple[bytes, RemoteProtocolError | None]:
    if not hasattr(handshake, "filter_data"):
        return behind + b"".join(rest), None
    filtering: Any = handshake
    wanted: object = filtering.filtering
    assert isinstance(wanted, bool), f"filtering is True or False after OK, not {wanted!r}"
    if not wanted:
        return behind + b"".join(rest), None
    for part in rest:
        try:
            passed: object = filtering.filter_data(part)
        except RemoteProtocolError as error:
            return behind, error
        except (Exception, SystemExit) as error:
            raise AssertionError(
                f"filter_data gives bytes or RemoteProtocolError, nothing else; {shown(part)} gave {told(error)}"
            ) from error
        assert isinstance(passed, bytes), f"filter_data gives bytes; {shown(part)} gave {passed!r}"
        behind += passed
    return behind, None


def _check_name(request: HandshakeRequest, fed: bytes) -> None:
    try:
        legal = ServiceId.parse(str(request.service_id)) == request.service_id
    except InvalidNameError:
        legal = False
    assert legal, f"a request names a service by a legal ServiceId; {shown(fed)} gave {request.service_id!r}"


def _reply(handshake: HandshakeProtocol, code: ReplyCode, text: str, details: ReplyDetails | None, promise: str) -> bytes:
    try:
        reply: object = handshake.reply(code, text, details) if text or details is not None else handshake.reply(code)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{promise} gave {told(error)}") from error
    assert isinstance(reply, bytes), f"a reply is bytes; {promise} gave {reply!r}"
    return reply
