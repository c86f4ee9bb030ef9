"""What the fuzzer of handshakes feeds: requests written by rule and then broken, known ones broken, and noise.

Noise alone seldom gets past a first length byte. So half of the inputs are written by the grammar of their protocol, with each
part mostly right and sometimes not (a size that lies, a field twice, two lengths, a folded line, a request for another service
behind the first), and the other half starts from the vectors; then both are cut, spliced and flipped. It must draw everything
from the dice it is given: the same seed has to give the same inputs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["MAX_FED", "draw", "draw_http", "mutate", "seeds"]

MAX_FED: Final = 64 * 1024
"""Most bytes of one input: an agent reads no more of an incomplete request."""

_VECTORS: Final = Path(__file__).parents[2] / "protocol" / "vectors"
_LONG: Final = 0.0005  # share of inputs that are blown up to tens of kilobytes
_NOISE: Final = 0.02
_NAMES: Final = (b"http.cart.shop", b"http.cart.shop", b"HTTP.Cart.shop", b"tls.bank.shop", b"a.b.c", b"http.cart.shop.")
_BAD_NAMES: Final = (b"", b"http.cart", b"-a.b.c", b"a..c", b"a.b.c.d", b"h\xc3\xa9.b.c", b"a.b.c\x00", b"x" * 64 + b".b.c")
_TRACE: Final = b"00-" + b"4bf92f3577b34da6a3ce929d0e0e4736" + b"-00f067aa0ba902b7-01"
_FIELDS: Final[dict[int, tuple[bytes, ...]]] = {
    1: (b"\x00\x00\x13\x88", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"),
    2: (_TRACE, _TRACE.upper(), b"ff" + _TRACE[2:]),
    3: (b"customer-7", b"\x00", b"k" * 64),
    4: (b"v2", b"v.2-a_b", b"-v"),
    5: (b"", b"\x01"),
}
_METHODS: Final = (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"get", b"G\xc3T")
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.10", b"HTTP/11")
_LINE_ENDS: Final = (b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b"\n\r")
_CODINGS: Final = (b"chunked", b"Chunked", b"chunked, chunked", b"gzip, chunked", b"identity", b"xchunked", b"chunked;q=1", b"")
_LENGTHS: Final = (b"5", b"05", b"+5", b"5, 5", b"0x5", b"5 5", b"-1", b"99999999999999999999", b"", b"5\x0b")
_LAST_CHUNKS: Final = (
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"0\r\nX: y\n\n",
    b"0\r\n\n",
    b"0\r\nX: y\r\n z\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0;a\r\n\r\n",
    b"00\n\n",
)
_HEADERS: Final = (
    b"Accept: */*",
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"traceparent: " + _TRACE,
    b"X: a: b",
    b"Host : tls.bank.shop",
    b" Host: tls.bank.shop",
    b"X-Host: tls.bank.shop",
    b"Content-Length : 5",
    b"Transfer-Encoding : chunked",
    b"Transfer_Encoding: chunked",
    b"X:\x0bTransfer-Encoding: chunked",
    b"X: a\x00b",
    b"no colon",
)


def seeds() -> list[bytes]:
    """The requests of all vectors."""
    found = []
    for version in (1, 2):
        vectors = json.loads((_VECTORS / f"handshake-v{version}.json").read_text("utf-8"))
        found += [b"".join(map(bytes.fromhex, vector["request"])) for vector in vectors["server"]]
    socks = json.loads((_VECTORS / "handshake-socks5.json").read_text("utf-8"))
    found += [b"".join(map(bytes.fromhex, vector["bytes"])) for vector in socks["server"]]
    http = json.loads((_VECTORS / "handshake-http.json").read_text("utf-8"))
    found += [vector["bytes"].encode("latin-1") for vector in http["server"]]
    return [seed for seed in found if 0 < len(seed) <= 2048]


def draw(dice: random.Random, starts: list[bytes]) -> bytes:
    """An input."""
    share = dice.random()
    if share < _NOISE:
        return bytes((dice.choice((1, 2, 5, 67, 71)),)) + dice.randbytes(dice.randrange(64))
    if share < 0.5:
        data = dice.choice(_WRITERS)(dice)
        breaks = max(0, dice.randrange(5) - 2)
    else:
        data = starts[int(dice.random() * len(starts))]
        breaks = dice.randrange(6)
    data = mutate(dice, data, starts, breaks)
    if dice.random() < _LONG:
        at = dice.randrange(len(data) + 1)
        piece = data[at : at + dice.randrange(1, 64)] or b"a"
        data = data[:at] + piece * (MAX_FED // len(piece)) + data[at:]
    return data[:MAX_FED]


def mutate(dice: random.Random, start: bytes, starts: list[bytes], breaks: int) -> bytes:
    """`start`, broken at that many places; the first byte, which chooses the handshake, is mostly spared."""
    data = bytearray(start)
    for _ in range(breaks):
        at = int(dice.random() * (len(data) + 1))
        if not at and dice.random() < 0.9:
            continue
        match int(dice.random() * 7):
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
            case 5:
                del data[at:]
            case _:
                data[at : at + 1] = dice.choice(
                    (b"\x00", b"\xff", b"\r\n", b"\n", b"\r", b" ", b"\t", b".", b":", b";", b"\x80")
                )
    return bytes(data)


def _name(dice: random.Random, good: float = 0.85) -> bytes:
    return dice.choice(_NAMES if dice.random() < good else _BAD_NAMES)


def _size(dice: random.Random, size: int) -> int:
    """`size`, or now and then a lie."""
    return size if dice.random() < 0.95 else max(0, size + dice.choice((-1, 1, 2, 255, 4096)))


def _draw_version_1(dice: random.Random) -> bytes:
    name = _name(dice)
    return bytes((1, _size(dice, len(name)) % 256)) + name + dice.randbytes(dice.randrange(4))


def _draw_version_2(dice: random.Random) -> bytes:
    name = _name(dice)
    body = bytes((_size(dice, len(name)) % 256,)) + name
    for _ in range(dice.randrange(5)):
        number = dice.randrange(1, 6) if dice.random() < 0.9 else dice.randrange(128)
        value = dice.choice(_FIELDS.get(number, (b"", b"?")))
        if dice.random() < 0.1:
            value = dice.randbytes(dice.randrange(70))
        body += bytes((number | dice.choice((0, 128)),)) + (_size(dice, len(value)) % 65536).to_bytes(2, "big") + value
    return b"\x02" + (_size(dice, len(body)) % 65536).to_bytes(2, "big") + body + dice.randbytes(dice.randrange(4))


def _draw_socks5(dice: random.Random) -> bytes:
    methods = bytes(dice.choice((0, 0, 1, 2, 255)) for _ in range(dice.randrange(5)))
    name = _name(dice)
    kind = dice.choice((3, 3, 3, 3, 1, 4, 0))
    address = {1: b"\x7f\x00\x00\x01", 4: bytes(16)}.get(kind, bytes((_size(dice, len(name)) % 256,)) + name)
    command = dice.choice((1, 1, 1, 1, 2, 3, 9))
    version, reserved = (5, 0) if dice.random() < 0.95 else (dice.choice((4, 5)), dice.choice((0, 1)))
    request = bytes((version, command, reserved, kind)) + address + dice.randbytes(2)
    return bytes((5, _size(dice, len(methods)) % 256)) + methods + request + dice.randbytes(dice.randrange(4))


def draw_http(dice: random.Random) -> bytes:
    """Some requests, one behind the other, mostly for the same service."""
    name = _name(dice, 0.97)
    out = b""
    for _ in range(dice.choice((1, 1, 2, 3))):
        out += _draw_request(dice, name)
        if dice.random() < 0.1:
            name = _name(dice)
    return out


def _draw_request(dice: random.Random, name: bytes) -> bytes:
    host = name + dice.choice((b"", b"", b"", b":80", b":8080")) + (b"@x" if dice.random() < 0.01 else b"")
    method = dice.choice(_METHODS[:4] if dice.random() < 0.9 else _METHODS)
    if method == b"CONNECT":
        target = name + b":80"
    elif dice.random() < 0.9:
        target = dice.choice((b"/", b"/", b"/a?b=c", b"http://" + host + b"/"))
    else:
        target = dice.choice((b"*", b"http://tls.bank.shop/", b"a b", name + b":80"))
    end = dice.choice(_LINE_ENDS)
    lines = [b" ".join((method, target, dice.choice(_VERSIONS[:1] if dice.random() < 0.9 else _VERSIONS)))]
    fields = [b"Host:" + dice.choice((b" ", b"", b"\t ")) + host] if dice.random() < 0.97 else []
    fields += [dice.choice(_HEADERS) for _ in range(dice.choice((0, 0, 0, 1, 1, 3)))]
    if dice.random() < 0.02:
        fields.append(b"Host: " + _name(dice))
    framing, body = _draw_body(dice)
    fields += framing
    dice.shuffle(fields)
    lines += [*fields, b"", b""]
    head = lines[0]
    for line in lines[1:]:
        head += (end if dice.random() < 0.01 else b"\r\n") + line
    return head + body


def _draw_body(dice: random.Random) -> tuple[list[bytes], bytes]:
    """Fields that say how long the body is, and the body."""
    chunks = b"".join(_draw_chunk(dice) for _ in range(dice.randrange(3)))
    last = dice.choice(_LAST_CHUNKS if dice.random() < 0.3 else _LAST_CHUNKS[:1])
    coded = b"Transfer-Encoding: " + (b"chunked" if dice.random() < 0.7 else dice.choice(_CODINGS))
    long = b"Content-Length: " + (b"5" if dice.random() < 0.7 else dice.choice(_LENGTHS))
    match dice.randrange(8):
        case 0 | 1 | 2:
            return [], b""
        case 3 | 4:
            return [long], b"hello"
        case 5 | 6:
            return [coded], chunks + last
        case _:
            return [coded, long, *([long] if dice.random() < 0.5 else [])], chunks + last


def _draw_chunk(dice: random.Random) -> bytes:
    size = (
        b"5"
        if dice.random() < 0.8
        else dice.choice((b"005", b"5 ", b"0x5", b"+5", b"5;", b"6", b"4", b"", b"fffffffffffffffff"))
    )
    extension = b"" if dice.random() < 0.8 else dice.choice((b";a=b", b';a="\r\n"', b";a\nb", b";a\rb", b" ;a", b";\x00"))
    return size + extension + (dice.choice(_LINE_ENDS) if dice.random() < 0.03 else b"\r\n") + b"hello\r\n"


_WRITERS: Final[tuple[Callable[[random.Random], bytes], ...]] = (
    _draw_version_1,
    _draw_version_2,
    _draw_version_2,
    _draw_socks5,
    _draw_socks5,
    draw_http,
    draw_http,
    draw_http,
)
