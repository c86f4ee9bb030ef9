"""The client protocols read a second time, from their pages and without the code: what the fuzzer compares with.

Versions 1, 2 and SOCKS version 5 have one right answer. HTTP has as many readers as there are servers behind the mesh, so here
it has several, each forgiving something that some server is known to forgive; what the mesh lets through has to be the same
requests for all of them. It must not import anything that parses for the mesh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from meshless_core import HandshakeRequest, ServiceId

__all__ = ["SECOND", "Read", "misread"]

Read = tuple[HandshakeRequest, bytes] | str
"""A request and the application's bytes behind it, or "more", or "error"."""

_ID: Final = re.compile(rb"(?=.{1,191}\Z)([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.|\Z)){3}(?<!\.)")
_TRACE: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_PIN: Final = re.compile(rb"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_SIZES: Final = {1: (4, 4), 2: (55, 55), 3: (1, 64), 4: (1, 63), 5: (0, 0)}


def _service(name: bytes) -> ServiceId:
    return ServiceId(*name.decode().split("."))


def _version_1(data: bytes) -> Read:
    if len(data) > 1 and data[1] == 0:
        return "error"
    if len(data) < 2 or len(data) < 2 + data[1]:
        return "more"
    name, behind = data[2 : 2 + data[1]], data[2 + data[1] :]
    return (HandshakeRequest(_service(name)), behind) if _ID.fullmatch(name) else "error"


def _version_2(data: bytes) -> Read:
    length = int.from_bytes(data[1:3], "big")
    if len(data) >= 3 and not 2 <= length <= 4096:
        return "error"
    if len(data) < 3 or len(data) < 3 + length:
        return "more"
    body, behind = data[3 : 3 + length], data[3 + length :]
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
    request = HandshakeRequest(
        _service(name),
        sticky_key=fields.get(3),
        version_pin=fields[4].decode() if 4 in fields else None,
        timeout=deadline / 1000 if 1 in fields else None,
        traceparent=fields[2].decode() if 2 in fields else None,
        accepts_descriptor=5 in fields,
    )
    return request, behind


def _socks5(data: bytes) -> Read:
    """RFC 1928, sections 3 and 4, and our page: CONNECT and a domain name only."""
    if len(data) < 2 or len(data) < 2 + data[1]:
        return "more"
    methods, rest = data[2 : 2 + data[1]], data[2 + data[1] :]
    if 0 not in methods or rest[:1] not in (b"", b"\x05"):
        return "error"
    if len(rest) < 4:
        return "more"
    if rest[1:4] != b"\x01\x00\x03":
        return "error"
    if len(rest) < 5 or len(rest) < 7 + rest[4]:
        return "more"
    name, behind = rest[5 : 5 + rest[4]].lower(), rest[7 + rest[4] :]
    name = name[:-1] if name.endswith(b".") else name
    return (HandshakeRequest(_service(name)), behind) if _ID.fullmatch(name) else "error"


SECOND: Final[Mapping[int, Callable[[bytes], Read]]] = {1: _version_1, 2: _version_2, 5: _socks5}
"""By the first byte."""


# --- HTTP as servers read it ------------------------------------------------------------------------------------------


@attrs.frozen
class _Server:
    """What one server forgives.

    Attributes:
        newline: what ends a line.
        chunked_wins: whether Transfer-Encoding beats Content-Length; else the other way round.
        last_wins: whether the last of several equal fields counts; else the first.
        trims_names: whether blanks around a field's name are ignored, `_` is taken for `-`, and a line that begins with a
            blank is a field of its own; else it continues the last one.
    """

    newline: re.Pattern[bytes]
    chunked_wins: bool = True
    last_wins: bool = False
    trims_names: bool = False


_STRICT: Final = re.compile(rb"\r\n")
_LF: Final = re.compile(rb"\r?\n")
_CR: Final = re.compile(rb"\r\n|\n|\r(?!\n)")
_SERVERS: Final = (
    _Server(_STRICT),
    _Server(_LF),
    _Server(_LF, chunked_wins=False, last_wins=True),
    _Server(_LF, trims_names=True),
    _Server(_CR, last_wins=True, trims_names=True),
)
_CHUNK_SIZE: Final = re.compile(rb"[ \t]*(?:0[xX])?\+?([0-9A-Fa-f]+)[ \t]*(?:;.*)?", re.DOTALL)
_LENGTH: Final = re.compile(rb"\s*\+?([0-9]+)")
_AUTHORITY: Final = re.compile(rb"(?:[a-z]+://)([^/?#]*)", re.IGNORECASE)


def misread(forwarded: bytes, service: str) -> str | None:
    """What is wrong with requests that were let through to `service`: None if no server reads one for another service."""
    readings = [list(_read(forwarded, server)) for server in _SERVERS]
    for server, reading in zip(_SERVERS, readings, strict=True):
        for at, hosts, _ in reading:
            if hosts != {service.encode()}:
                return f"{server} reads a request for {hosts} at byte {at}"
    longest = max(readings, key=len)
    for server, reading in zip(_SERVERS, readings, strict=True):
        for (at, hosts, end), (other_at, other_hosts, other_end) in zip(reading, longest, strict=False):
            if (at, hosts) != (other_at, other_hosts) or (None not in (end, other_end) and end != other_end):
                return f"{server} reads {reading}, another {longest}"
    return None


def _read(data: bytes, server: _Server) -> Iterator[tuple[int, set[bytes], int | None]]:
    """Where each complete head begins, whom it names, and where its body ends, None if it is not all there.

    Stops at the first thing this server answers with 400.
    """
    at = 0
    while at < len(data):
        lines, body = _lines(data, at, server)
        if lines is None:
            return
        if not lines:  # an empty line before a request is skipped (RFC 9112, section 2.2)
            at = body
            continue
        words = lines[0].split(b" ")
        if len(words) != 3 or not words[0].isalpha():
            return
        fields = _fields(lines[1:], server)
        hosts = {_host(value) for value in fields.get(b"host", [])}
        absolute = _AUTHORITY.match(words[1])
        if absolute is not None:
            hosts.add(_host(absolute[1]))
        end = _body_end(data, body, fields, server)
        yield at, hosts, end
        websocket = b"websocket" in b",".join(fields.get(b"upgrade", [])).lower()
        if end is None or (websocket and data[end + 1 : end + 2] > b"\x7f"):
            return  # frames (RFC 6455): no requests any more
        at = end


def _host(value: bytes) -> bytes:
    name = value.strip().lower().rpartition(b"@")[2].partition(b":")[0]
    return name[:-1] if name.endswith(b".") else name


def _lines(data: bytes, at: int, server: _Server) -> tuple[list[bytes] | None, int]:
    """The lines up to an empty one, None if that is not there yet, and where the next thing begins."""
    lines: list[bytes] = []
    for match in server.newline.finditer(data, at):
        line = data[at : match.start()]
        at = match.end()
        if not line:
            return lines, at
        lines.append(line)
    return None, at


def _fields(lines: list[bytes], server: _Server) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    last = b""
    for line in lines:
        name, colon, value = line.partition(b":")
        if line[:1] in b" \t" and not server.trims_names:
            if last:
                fields[last][-1] += b" " + line.strip()
            continue
        if not colon:
            continue
        last = name.strip().replace(b"_", b"-").lower() if server.trims_names else name.lower()
        fields.setdefault(last, []).append(value.strip())
    return fields


def _body_end(data: bytes, at: int, fields: Mapping[bytes, list[bytes]], server: _Server) -> int | None:
    """Where the body ends; None if it is not all there, or this server gives up."""
    which = -1 if server.last_wins else 0
    codings, lengths = fields.get(b"transfer-encoding", []), fields.get(b"content-length", [])
    chunked = bool(codings) and b"chunked" in codings[which].lower()
    if chunked and (server.chunked_wins or not lengths):
        return _chunks_end(data, at, server)
    if not lengths:
        return at
    length = _LENGTH.match(lengths[which])
    if length is None:
        return None
    end = at + int(length[1])
    return end if end <= len(data) else None


def _chunks_end(data: bytes, at: int, server: _Server) -> int | None:
    while True:
        line = server.newline.search(data, at)
        if line is None:
            return None
        size = _CHUNK_SIZE.fullmatch(data[at : line.start()])
        if size is None:
            return None
        at = line.end()
        length = int(size[1], 16)
        if not length:
            trailers, end = _lines(data, at, server)
            return None if trailers is None else end
        behind = server.newline.match(data, at + length) if length <= len(data) else None
        if behind is None:
            return None
        at = behind.end()
