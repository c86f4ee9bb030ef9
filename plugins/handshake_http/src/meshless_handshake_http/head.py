"""Judges the head of a request that `h11` has parsed: whom it is for, and whether everybody would read it the same way.

`h11` decides what the bytes mean. It is lenient where servers differ, and the bytes go on unchanged, so what it forgives is
looked for here, in the bytes themselves: a head passes only if there is one way to read it. That is a list of things that must
not be there, not a second parser.

This module must not keep state, and must not see bodies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import attrs
import h11

from meshless_core import InvalidNameError, RemoteProtocolError, ReplyCode, ServiceId

__all__ = ["Head", "RejectedRequestError", "check_trailers", "read_head"]

_AMBIGUOUS_LINES: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
_CONTENT_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([^\r\n]*?)[ \t]*\r", re.IGNORECASE)
_MAX_LENGTH_DIGITS: Final = 18  # less than 2^63: no server's integer wraps
_AUTHORITY: Final = re.compile(r"([A-Za-z0-9.-]+)(?::([0-9]*))?")
_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_VERSIONS: Final = frozenset({b"1.0", b"1.1"})
_HTTP_PORTS: Final = frozenset({"", "80"})


class RejectedRequestError(RemoteProtocolError):
    """A request that is not forwarded.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        code = ReplyCode.UNSUPPORTED_VERSION if status == 505 else ReplyCode.MALFORMED_REQUEST
        super().__init__(message, code=code)
        self.status = status


@attrs.frozen
class Head:
    """What the mesh has to know of a request.

    Attributes:
        method: as written.
        service_id: whom it is for.
        chunked: whether its body comes in chunks.
        websocket: whether it asks to speak WebSocket from here on (RFC 6455).
        traceparent: W3C trace context, None without a valid one.
    """

    method: str
    service_id: ServiceId
    chunked: bool
    websocket: bool
    traceparent: str | None

    @property
    def is_connect(self) -> bool:
        """Whether it asks for a tunnel: the bytes behind it are no HTTP of ours."""
        return self.method == "CONNECT"


def read_head(request: h11.Request, raw: bytes) -> Head:
    """Judge a head.

    Args:
        request: as parsed.
        raw: the same head as it came, with the empty line.

    Raises:
        RejectedRequestError: it is not for a service, or can be read in more than one way.
    """
    if request.http_version not in _VERSIONS:
        version = request.http_version.decode("ascii")
        raise RejectedRequestError(
            f"HTTP/{version} is not spoken here: use HTTP/1.1, or a tunnel (CONNECT or SOCKS5) for others", 505
        )
    if _AMBIGUOUS_LINES.search(raw):
        raise RejectedRequestError("a line of the head ends in a bare CR or LF, or continues on the next: end lines in CR LF")
    for name, _ in request.headers:
        if b"_" in name and name.replace(b"_", b"-") in _FRAMING:
            text = _latin(name)
            raise RejectedRequestError(f"some servers take {text} for {text.replace('_', '-')}: write it so, or not at all")
    length = _content_length(raw)
    chunked = bool(_values(request, b"transfer-encoding"))
    if chunked and length is not None:
        raise RejectedRequestError("the request has both Transfer-Encoding and Content-Length: send one of them")
    if chunked and request.http_version == b"1.0":
        raise RejectedRequestError("the request has Transfer-Encoding in HTTP/1.0, which does not know it: use HTTP/1.1")
    method = request.method.decode("ascii")
    service_id = _addressed(method, request.target.decode("ascii"), [_latin(value) for value in _values(request, b"host")])
    if method == "CONNECT" and (chunked or length):
        raise RejectedRequestError("a CONNECT request has a body: send the tunnel's bytes behind the head")
    return Head(method, service_id, chunked, _asks_for_websocket(request), _traceparent(request))


def check_trailers(event: h11.EndOfMessage, raw: bytes) -> None:
    """Judge the end of a chunked body.

    Args:
        event: as parsed.
        raw: bytes that end with the body, at least from the first trailer on.

    Raises:
        RejectedRequestError: the trailers can be read in more than one way, or are fields that must not come late.
    """
    trailers = list(event.headers)
    lines = raw.rsplit(b"\r\n", len(trailers) + 2)[-(len(trailers) + 2) :]
    if lines[-2:] != [b"", b""] or any(b"\n" in line or b"\r" in line or line[:1] in b" \t" for line in lines[:-2]):
        raise RejectedRequestError("a trailer line ends in a bare CR or LF, or continues on the next: end lines in CR LF")
    for name, _ in trailers:
        if name.replace(b"_", b"-") in _FRAMING:  # as in the head: some servers take one for the other
            raise RejectedRequestError(f"{name.decode('ascii')} comes as a trailer: it belongs into the head")


def _addressed(method: str, target: str, hosts: list[str]) -> ServiceId:
    """The service a request is for: request target and Host have to agree (RFC 9112, section 3.2)."""
    if len(hosts) > 1:
        raise RejectedRequestError("the request has more than one Host: send one")
    host = _authority(hosts[0], "Host") if hosts else None
    if method == "CONNECT":
        named = _authority(target, "the target of CONNECT")
        if not named[1]:
            raise RejectedRequestError(f"the target of CONNECT {target[:256]!r} has no port: any will do")
        if host is not None and host[0] != named[0]:
            raise RejectedRequestError(f"the target of CONNECT is {named[0]}, its Host {host[0]}: name one service")
        return named[0]
    if host is None:
        raise RejectedRequestError("the request has no Host: it has to be the service id")
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return host[0]
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise RejectedRequestError(f"the request target {target[:256]!r} is no path: begin it with a slash")
    if absolute[1].lower() != "http":
        raise RejectedRequestError(f"the request is for an {absolute[1]}:// address: use a tunnel (CONNECT or SOCKS5) for it")
    named = _authority(absolute[2], "the request target")
    if named[0] != host[0] or (named[1] != host[1] and {named[1], host[1]} != _HTTP_PORTS):
        raise RejectedRequestError(f"the request target names {absolute[2]}, Host {hosts[0]}: they have to be the same")
    return host[0]


def _authority(text: str, where: str) -> tuple[ServiceId, str]:
    """Service id and port. Case does not matter, and the name may end in a dot (RFC 3986, section 3.2.2)."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise RejectedRequestError(f"{where} {text[:256]!r} is not <service>.<meshlet>.<namespace> with an optional :port")
    try:
        return ServiceId.parse(match[1].lower().removesuffix(".")), match[2] or ""
    except InvalidNameError as error:
        raise RejectedRequestError(f"{where}: {error}") from error


def _content_length(raw: bytes) -> int | None:
    found = _CONTENT_LENGTH.findall(raw)
    if not found:
        return None
    if len(found) > 1:
        raise RejectedRequestError("the request has more than one Content-Length: send one")
    text: bytes = found[0]
    if not text.isdigit() or len(text) > _MAX_LENGTH_DIGITS:
        raise RejectedRequestError(f"the Content-Length {_latin(text)[:64]!r} is not one number of at most 18 digits")
    return int(text)


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for found, value in request.headers if found == name]


def _tokens(values: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(token.strip().lower() for value in values for token in value.split(b","))


def _asks_for_websocket(request: h11.Request) -> bool:
    return (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and b"websocket" in _tokens(_values(request, b"upgrade"))
        and b"upgrade" in _tokens(_values(request, b"connection"))
    )


def _traceparent(request: h11.Request) -> str | None:
    values = _values(request, b"traceparent")
    return _latin(values[0]) if len(values) == 1 and _TRACEPARENT.fullmatch(values[0]) else None


def _latin(value: bytes) -> str:
    return value.decode("latin-1")
