"""Fuzzes every installed handshake the way an agent drives it; what holds for any bytes from any client.

    python -m tests.protocol.fuzz_handshakes --count 10000000 --jobs 2

Each input is fed whole or in pieces to the handshake that claims its first byte. Whatever comes: a request, "more", or a
`RemoteProtocolError` with a reply code, never another exception and never a hang; the same verdict for the same bytes however
they were split; a refusal can be said at any time; a request names a service that the bytes name; nothing is kept for a service
but what the client sent; a filter lets through nothing that did not come in. For versions 1 and 2 a second decoder, written
from the specification pages, has to agree.

Exit status: 0 if everything held, 1 with the input and how to repeat it if not.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from meshless_core import HandshakeProtocol, HandshakeRequest, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId

Factories = Mapping[int, Callable[[], HandshakeProtocol]]

_VECTORS: Final = Path(__file__).parents[2] / "protocol" / "vectors"
_BATCH: Final = 20_000
_HANG_SECONDS: Final = 120
_MAX_FED: Final = 64 * 1024  # an agent reads no more of an incomplete request
_REFUSALS: Final = tuple(code for code in ReplyCode if code)
_DETAILS: Final = (
    ReplyDetails(connection_id=bytes(16)),
    ReplyDetails(connection_id=bytes(range(16)), version="v2", endpoint="shop/cart-0", retry_after=1.5),
)
_SOCKS: Final = (
    b"\x05\x01\x00" + b"\x05\x01\x00\x03\x0ehttp.cart.shop\x00\x50",
    b"\x05\x02\x00\x02" + b"\x05\x01\x00\x03\x0ehttp.cart.shop\x01\xbbearly",
    b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50",
    b"\x05\x01\x02",
)
_HTTP: Final = (
    b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\n\r\n",
    b"CONNECT http.cart.shop:80 HTTP/1.1\r\nHost: http.cart.shop:80\r\n\r\nearly",
    b"POST /a HTTP/1.1\r\nHost: http.cart.shop\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: http.cart.shop\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: http.cart.shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: http.cart.shop\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"GET http://http.cart.shop/ HTTP/1.1\r\nHost: tls.bank.shop\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\n\r\nGET / HTTP/1.1\r\nHost: tls.bank.shop\r\n\r\n",
)


class BrokenPromiseError(Exception):
    """An input for which something did not hold."""


def installed() -> Factories:
    """The factory of every installed handshake, by the first byte it claims."""
    factories: dict[int, Callable[[], HandshakeProtocol]] = {}
    for entry in sorted(entry_points(group="meshless.plugins"), key=lambda entry: entry.name):
        register = getattr(entry.load(), "meshless_register_handshake", None)
        if register is not None:
            spec = register()
            factories.update(dict.fromkeys(spec.first_bytes, spec.create(spec.options())))
    return factories


def seeds() -> list[bytes]:
    """Inputs to start from: the requests of all vectors, and some of the foreign protocols."""
    found = [*_SOCKS, *_HTTP]
    for version in (1, 2):
        vectors = json.loads((_VECTORS / f"handshake-v{version}.json").read_text("utf-8"))
        found += [b"".join(map(bytes.fromhex, vector["request"])) for vector in vectors["server"]]
    return [seed for seed in found if 0 < len(seed) <= 1024]


def mutated(dice: random.Random, starts: list[bytes]) -> bytes:
    """An input near one of `starts`, or nothing like it."""
    draw = dice.random()
    if draw < 0.02:
        return dice.randbytes(dice.randrange(1, 64))
    data = bytearray(starts[int(dice.random() * len(starts))])
    for _ in range(int(draw * 6)):
        at = int(dice.random() * (len(data) + 1))
        match int(dice.random() * 6):
            case 0 if at < len(data):
                data[at] ^= 1 << int(dice.random() * 8)
            case 1:
                data[at:at] = dice.randbytes(int(dice.random() * 4))
            case 2:
                del data[at : at + 1 + int(dice.random() * 4)]
            case 3:
                other = starts[int(dice.random() * len(starts))]
                data[at:] = other[int(dice.random() * len(other)) :]
            case 4:
                data[at:at] = data[at : at + int(dice.random() * 16)]
            case _:
                data[at : at + 1] = dice.choice((b"\x00", b"\xff", b"\r\n", b" ", b".", b":", b"\x80"))
    return bytes(data[:_MAX_FED])


def pieces(dice: random.Random, data: bytes) -> Iterator[bytes]:
    """`data` cut at random places, sometimes byte by byte."""
    largest = dice.choice((1, 3, 17, 200))
    at = 0
    while at < len(data):
        size = 1 + int(dice.random() * largest)
        yield data[at : at + size]
        at += size


def judge(handshake: HandshakeProtocol, parts: Iterator[bytes], end: bool) -> tuple[str, HandshakeRequest | int | None, bytes]:
    """Drive one handshake to its verdict: its name, what came with it, and the bytes for the service."""
    interactive = getattr(handshake, "data_to_send", None)
    outcome: tuple[str, HandshakeRequest | int | None] = ("more", None)
    try:
        for part in parts:
            request = handshake.receive_data(part)
            if request is not None:
                outcome = ("request", request)
                break
            if interactive is not None and len(interactive()) > 300:
                raise BrokenPromiseError("says more than a few hundred bytes before the request")
        else:
            if end and handshake.receive_data(b"") is not None:
                raise BrokenPromiseError("end of file completed a request")
    except RemoteProtocolError as error:
        if error.code not in _REFUSALS:
            raise BrokenPromiseError(f"{error.code} is no code to refuse with") from error
        return "error", error.code, b""
    if outcome[0] != "request":
        return *outcome, b""
    behind = bytearray(handshake.trailing_data)
    if not getattr(handshake, "filtering", False):
        return *outcome, bytes(behind) + b"".join(parts)
    filtering: Any = handshake
    filtering.reply(ReplyCode.OK)
    try:
        for part in parts:
            behind += filtering.filter_data(part)
    except RemoteProtocolError:
        return "error", None, bytes(behind)  # a filter may see only later what a whole input shows at once
    return *outcome, bytes(behind)


def check(factories: Factories, data: bytes, dice: random.Random) -> str:
    """Everything that has to hold for `data`; returns what it was.

    Raises:
        BrokenPromiseError: something did not hold.
    """
    factory = factories.get(data[0])
    if factory is None:
        return "unclaimed"
    handshake = factory()
    name, what, behind = judge(handshake, iter((data,)), end=False)
    other = judge(factory(), pieces(dice, data), end=False)
    filtered = getattr(handshake, "filtering", False) or None in (what, other[1])
    same = other[0] == name if filtered else other[:2] == (name, what)
    if not same or (name == "request" and not filtered and other[2] != behind):
        raise BrokenPromiseError(f"whole: {(name, what, behind)}; in pieces: {other}")
    if name == "more" and judge(factory(), iter((data,)), end=True)[0] != "error":
        raise BrokenPromiseError("end of file inside a request is no error")
    if isinstance(what, HandshakeRequest):
        _check_request(handshake, what, data, behind, dice)
    second = _SECOND.get(data[0])
    if second is not None:
        expected = second(data)
        if expected != (what if name == "request" else name):
            raise BrokenPromiseError(f"the second decoder says {expected}, the handshake says {name} {what}")
    if name != "request" or not getattr(handshake, "filtering", False):  # else yes has been said
        _check_reply(handshake, name, dice)
    return f"0x{data[0]:02x} {name}" if data[0] < 32 else f"text {name}"


def _check_request(
    handshake: HandshakeProtocol, request: HandshakeRequest, data: bytes, behind: bytes, dice: random.Random
) -> None:
    named = str(request.service_id)
    if ServiceId.parse(named) != request.service_id or named.encode() not in data.lower():
        raise BrokenPromiseError(f"{named} is not a service the bytes name")
    if behind not in data:
        raise BrokenPromiseError(f"{behind!r} for the service is not what the client sent")
    if not getattr(handshake, "filtering", False):
        return
    filtering: Any = handshake
    came, out = bytearray(data), bytearray(behind)
    try:
        for _ in range(3):
            more = mutated(dice, list(_HTTP))
            came += more
            out += filtering.filter_data(more)
        out += filtering.filter_data(b"")
    except RemoteProtocolError:
        pass  # cut: allowed at any time
    if not came.startswith(bytes(out)):
        raise BrokenPromiseError("the filter let through what did not come in")


def _check_reply(handshake: HandshakeProtocol, name: str, dice: random.Random) -> None:
    details = dice.choice(_DETAILS)
    if name == "request" and dice.random() < 0.5:
        if not isinstance(handshake.reply(ReplyCode.OK, "", details), bytes):
            raise BrokenPromiseError("yes is not bytes")
    elif not isinstance(handshake.reply(dice.choice(_REFUSALS), "for people \N{SNOWMAN}", details), bytes):
        raise BrokenPromiseError("a refusal is not bytes")


# --- versions 1 and 2 a second time, from the pages and without the code ----------------------------------------------

_ID: Final = re.compile(rb"(?=.{1,191}\Z)([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.|\Z)){3}(?<!\.)")
_TRACE: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_PIN: Final = re.compile(rb"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_SIZES: Final = {1: (4, 4), 2: (55, 55), 3: (1, 64), 4: (1, 63), 5: (0, 0)}


def _version_1(data: bytes) -> HandshakeRequest | str:
    if len(data) > 1 and data[1] == 0:
        return "error"
    if len(data) < 2 or len(data) < 2 + data[1]:
        return "more"
    name = data[2 : 2 + data[1]]
    return HandshakeRequest(ServiceId(*name.decode().split("."))) if _ID.fullmatch(name) else "error"


def _version_2(data: bytes) -> HandshakeRequest | str:
    length = int.from_bytes(data[1:3], "big")
    if len(data) >= 3 and not 2 <= length <= 4096:
        return "error"
    if len(data) < 3 or len(data) < 3 + length:
        return "more"
    body = data[3 : 3 + length]
    name, rest = body[1 : 1 + body[0]], body[1 + body[0] :]
    if len(name) < body[0] or not _ID.fullmatch(name):
        return "error"
    fields: dict[int, bytes] = {}
    while rest:
        size = int.from_bytes(rest[1:3], "big")
        number, value = rest[0] % 128, rest[3 : 3 + size]
        least, most = _SIZES.get(number, (0, 0 if rest[0] >= 128 else 4096))
        unknown_critical = rest[0] >= 128 and number not in _SIZES
        if len(rest) < 3 or len(value) < size or number in fields or unknown_critical or not least <= size <= most:
            return "error"
        fields[number] = value
        rest = rest[3 + size :]
    deadline = int.from_bytes(fields.get(1, b"\xff"), "big")
    trace = _TRACE.fullmatch(fields.get(2, b"00-" + b"1" * 32 + b"-" + b"1" * 16 + b"-00"))
    if not deadline or trace is None or trace[1] == b"ff" or not int(trace[2], 16) or not int(trace[3], 16):
        return "error"
    if 4 in fields and not _PIN.fullmatch(fields[4]):
        return "error"
    return HandshakeRequest(
        ServiceId(*name.decode().split(".")),
        sticky_key=fields.get(3),
        version_pin=fields[4].decode() if 4 in fields else None,
        timeout=deadline / 1000 if 1 in fields else None,
        traceparent=fields[2].decode() if 2 in fields else None,
        accepts_descriptor=5 in fields,
    )


_SECOND: Final[Mapping[int, Callable[[bytes], HandshakeRequest | str]]] = {1: _version_1, 2: _version_2}


# --- running ----------------------------------------------------------------------------------------------------------


def run(seed: int, count: int) -> Counter[str]:
    """Check `count` inputs; the same seed gives the same inputs.

    Raises:
        BrokenPromiseError: something did not hold, naming the input.
    """
    factories, starts, dice = installed(), seeds(), random.Random(seed)
    kinds: Counter[str] = Counter()
    for _ in range(count):
        data = mutated(dice, starts)
        if not data:
            continue
        try:
            kinds[check(factories, data, dice)] += 1
        except Exception as error:  # anything at all is a finding
            raise BrokenPromiseError(f"input {data.hex()} (seed {seed}): {type(error).__name__}: {error}") from error
    return kinds


def _batch(job: tuple[int, int]) -> Counter[str]:
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    try:
        return run(*job)
    finally:
        faulthandler.cancel_dump_traceback_later()


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="fuzz all installed handshakes")
    parser.add_argument("--count", type=int, default=10_000_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes")
    options = parser.parse_args(arguments)
    batches = [(options.seed + at, min(_BATCH, options.count - at * _BATCH)) for at in range(-(-options.count // _BATCH))]
    kinds: Counter[str] = Counter()
    began = shown = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs) as pool:
        try:
            for done in pool.imap_unordered(_batch, batches):
                kinds += done
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    print(f"{kinds.total():>12,} inputs, {kinds.total() / (shown - began):,.0f} per second", flush=True)
        except BrokenPromiseError as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    print(f"{kinds.total():>12,} inputs in {time.monotonic() - began:.0f} s, everything held")
    for kind, number in sorted(kinds.items()):
        print(f"{number:>12,} {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
