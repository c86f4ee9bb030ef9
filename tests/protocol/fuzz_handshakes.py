"""Fuzzes every installed handshake the way an agent drives it; what holds for any bytes from any client.

    python -m tests.protocol.fuzz_handshakes --count 10000000 --jobs 2

Each input (`fuzz_inputs`) is fed whole and in pieces to the handshake that claims its first byte. Whatever comes: a request,
"more", or a `RemoteProtocolError` with a reply code, never another exception and never a hang; the same verdict for the same
bytes however they were split; a refusal can be said at any time and is no yes; a request names a service that the bytes name;
nothing is kept for a service but what the client sent, and nothing is let through before a yes; a filter lets through nothing
that did not come in, and nothing that any server would take for a request to another service; what is held of an incomplete
request is bounded. For versions 1, 2 and SOCKS a second decoder, written from the pages, has to agree (`second_readers`).

That an agent gives a service no byte before its yes is `tests/mesh/test_fuzzed_agent.py`.

Exit status: 0 if everything held, 1 with the input and how to repeat it if not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import entry_points
from typing import Any, Final, Never

from meshless_core import (
    HandshakeProtocol,
    HandshakeRequest,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyCode,
    ReplyDetails,
    ServiceId,
)
from tests.protocol.fuzz_inputs import MAX_FED, draw, draw_http, mutate, seeds
from tests.protocol.second_readers import SECOND, misread

Factories = Mapping[int, Callable[[], HandshakeProtocol]]

_BATCH: Final = 5_000
_HANG_SECONDS: Final = 60.0
"""Seconds of a processor that a batch may take: half a second is usual. Not of a clock: a busy machine is not a finding."""

_LONG: Final = 8 * 1024
_MOST_HELD: Final = MAX_FED + 8 * 1024
"""Most bytes a handshake may hold: what it was given at once, and what its own limits are for an incomplete request."""

_REFUSALS: Final = tuple(code for code in ReplyCode if code)
_DETAILS: Final = (
    ReplyDetails(connection_id=bytes(16)),
    ReplyDetails(connection_id=bytes(range(16)), version="v2", endpoint="shop/cart-0", retry_after=1.5),
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
            if handshake.trailing_data:
                raise BrokenPromiseError("has bytes for a service before there is a request")
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
    _check_silence_before_yes(filtering)
    filtering.reply(ReplyCode.OK)
    try:
        for part in parts:
            behind += filtering.filter_data(part)
    except RemoteProtocolError:
        return "error", None, bytes(behind)  # a filter may see only later what a whole input shows at once
    return *outcome, bytes(behind)


def _check_silence_before_yes(filtering: Any) -> None:
    try:
        filtering.filter_data(b"x")
    except LocalProtocolError:
        return
    raise BrokenPromiseError("the filter lets bytes through before a yes")


def check(factories: Factories, data: bytes, dice: random.Random) -> str:
    """Everything that has to hold for `data`, whose first byte is claimed; returns what it was.

    Raises:
        BrokenPromiseError: something did not hold.
    """
    factory = factories[data[0]]
    handshake, slowly = factory(), factory()
    name, what, behind = judge(handshake, iter((data,)), end=False)
    other = judge(slowly, pieces(dice, data), end=False)
    filtered = getattr(handshake, "filtering", False) or None in (what, other[1])
    same = other[0] == name if filtered else other[:2] == (name, what)
    if not same or (name == "request" and not filtered and other[2] != behind):
        raise BrokenPromiseError(f"whole: {(name, what, behind)}; in pieces: {other}")
    if name == "more" and judge(factory(), iter((data,)), end=True)[0] != "error":
        raise BrokenPromiseError("end of file inside a request is no error")
    if len(data) >= _LONG and max(held(handshake), held(slowly)) > _MOST_HELD:
        raise BrokenPromiseError(f"holds {held(handshake)} bytes fed whole, {held(slowly)} fed in pieces")
    if isinstance(what, HandshakeRequest):
        _check_request(handshake, what, data, behind, dice)
    if filtered and other[2]:
        _check_forwarded(slowly, data, other[2])
    second = SECOND.get(data[0])
    if second is not None:
        expected = second(data)
        if expected != ((what, behind) if name == "request" else name):
            raise BrokenPromiseError(f"the second decoder says {expected}, the handshake says {name} {what} {behind!r}")
    if name != "request" or not getattr(handshake, "filtering", False):  # else yes has been said
        _check_reply(handshake, name, dice)
    return f"0x{data[0]:02x} {name}" if data[0] < 32 else f"text {name}"


def held(thing: object) -> int:
    """Bytes of text and data an object of ours, or of the parser it uses, refers to."""
    if isinstance(thing, bytes | bytearray | str):
        return len(thing)
    if isinstance(thing, list | tuple | set | frozenset):
        return sum(map(held, thing))
    if isinstance(thing, type) or not type(thing).__module__.startswith(("meshless_", "h11")):
        return 0
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return sum(held(getattr(thing, name, None)) for name in {*names, *getattr(thing, "__dict__", ())})


def _check_request(
    handshake: HandshakeProtocol, request: HandshakeRequest, data: bytes, behind: bytes, dice: random.Random
) -> None:
    named = str(request.service_id)
    if ServiceId.parse(named) != request.service_id or named.encode() not in data.lower():
        raise BrokenPromiseError(f"{named} is not a service the bytes name")
    if not data.endswith(behind) and not getattr(handshake, "filtering", False):
        raise BrokenPromiseError(f"{behind!r} for the service is not what the client sent")
    if not getattr(handshake, "filtering", False):
        return
    filtering: Any = handshake
    came, out = bytearray(data), bytearray(behind)
    try:
        for _ in range(3):
            more = mutate(dice, draw_http(dice), [data], dice.randrange(3)) or b"G"
            came += more
            out += filtering.filter_data(more)
        out += filtering.filter_data(b"")
    except RemoteProtocolError:
        pass  # cut: allowed at any time
    _check_forwarded(handshake, bytes(came), bytes(out), str(request.service_id))


def _check_forwarded(handshake: HandshakeProtocol, came: bytes, out: bytes, service: str = "") -> None:
    """What a filter let through is the beginning of what came, and for every server a row of requests to this service."""
    if not came.startswith(out):
        raise BrokenPromiseError(f"the filter let through what did not come in: {out!r}")
    wrong = misread(out, service or _first_host(handshake))
    if wrong is not None:
        raise BrokenPromiseError(f"let through {out!r}: {wrong}")


def _first_host(handshake: HandshakeProtocol) -> str:
    requests: Any = handshake
    return str(requests._requests.first.service_id)


def _check_reply(handshake: HandshakeProtocol, name: str, dice: random.Random) -> None:
    details = dice.choice(_DETAILS)
    if name == "request" and dice.random() < 0.5:
        reply = handshake.reply(ReplyCode.OK, "", details)
        if not isinstance(reply, bytes) or not says_yes(reply):
            raise BrokenPromiseError(f"{reply!r} is no yes")
    else:
        reply = handshake.reply(dice.choice(_REFUSALS), "for people \N{SNOWMAN}", details)
        if not isinstance(reply, bytes) or says_yes(reply):
            raise BrokenPromiseError(f"{reply!r} is no refusal")


def says_yes(reply: bytes) -> bool:
    """Whether a client takes these bytes for a yes, whichever handshake they are of."""
    if reply.startswith(b"HTTP/1.1 "):
        return reply[9:10] == b"2"
    if reply.startswith(b"\x05"):
        return reply[-10:-8] == b"\x05\x00"  # behind the choice of a method, if that was not sent before
    return reply[1:2] == b"\x00"


# --- running ----------------------------------------------------------------------------------------------------------


def run(seed: int, count: int) -> Counter[str]:
    """Check `count` inputs; the same seed gives the same inputs.

    Raises:
        BrokenPromiseError: something did not hold, naming the input.
    """
    factories, starts, dice = installed(), seeds(), random.Random(seed)
    claimed = {bytes((first,)) for first in factories}
    kinds: Counter[str] = Counter()
    for number in range(count):
        while (data := draw(dice, starts))[:1] not in claimed:
            pass
        try:
            kinds[check(factories, data, dice)] += 1
        except Exception as error:  # anything at all is a finding
            shown = data.hex() if len(data) <= _LONG else f"{data[:100].hex()}... of {len(data)} bytes"
            problem = f"input {shown} (seed {seed}, number {number}): {type(error).__name__}: {str(error)[:2000]}"
            raise BrokenPromiseError(problem) from error
    return kinds


def _hangs(_number: int, _frame: object) -> Never:
    raise BrokenPromiseError(f"no verdict after {_HANG_SECONDS:g} s of a processor")


def _batch(job: tuple[int, int]) -> Counter[str]:
    signal.signal(signal.SIGPROF, _hangs)
    signal.setitimer(signal.ITIMER_PROF, _HANG_SECONDS)
    try:
        return run(*job)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


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
    with ProcessPoolExecutor(options.jobs, context) as pool:  # a worker that dies is an error, and no endless wait
        try:
            for done in as_completed(pool.submit(_batch, job) for job in batches):
                kinds += done.result()
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    print(f"{kinds.total():>12,} inputs, {kinds.total() / (shown - began):,.0f} per second", flush=True)
        except BrokenPromiseError as failure:
            pool.shutdown(cancel_futures=True)
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    print(f"{kinds.total():>12,} inputs in {time.monotonic() - began:.0f} s, everything held")
    for kind, number in sorted(kinds.items()):
        print(f"{number:>12,} {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
