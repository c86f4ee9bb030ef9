"""Reads and writes what is inside the messages of version 2: the field registry, requests, texts.

Why both directions are here: what one side writes the other reads, and a number that is wrong in one of two files is a bug
that no single test sees. Framing and states are not in here: `server`, `client` and `lease` do that. This module must not keep
state of a connection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from meshless_core import (
    HandshakeRequest,
    InvalidNameError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyCode,
    ReplyDetails,
    ServiceId,
)

__all__ = [
    "CRITICAL",
    "FIRST_BYTE",
    "HEADER_BYTES",
    "MAX_BODY_BYTES",
    "MAX_TEXT_BYTES",
    "MIN_BODY_BYTES",
    "NOTICE_KINDS",
    "REPLY_FIELDS",
    "REPLY_HEADER_BYTES",
    "REQUEST_FIELDS",
    "Field",
    "decode_body",
    "encode_notice",
    "encode_reply",
    "encode_request",
    "fits_text",
    "read_fields",
]

FIRST_BYTE: Final = 2
"""The version byte: the first byte of a request and of a reply."""

HEADER_BYTES: Final = 3
"""Of a request: version and length."""

REPLY_HEADER_BYTES: Final = 4
"""Of a reply: version, code and length."""

MIN_BODY_BYTES: Final = 2
MAX_BODY_BYTES: Final = 4096
MAX_TEXT_BYTES: Final = 256

CRITICAL: Final = 0x80
"""The bit of a field's type that forbids to skip it."""

NOTICE_KINDS: Final[Mapping[str, int]] = MappingProxyType({"drain": 1, "revoked": 2})

_FIELD_HEADER: Final = 3
_MAX_U32: Final = 0xFFFF_FFFF
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)


class Field(NamedTuple):
    """What the registry says of a field: its name, and the bounds of its size in bytes."""

    name: str
    smallest: int
    largest: int


DEADLINE: Final = 0x01
TRACEPARENT: Final = 0x02
STICKY_KEY: Final = 0x03
VERSION_PIN: Final = 0x04
ACCEPTS_DESCRIPTOR: Final = 0x05

CONNECTION_ID: Final = 0x11
VERSION: Final = 0x12
ENDPOINT: Final = 0x13
RETRY_AFTER: Final = 0x14
TEXT: Final = 0x15
DESCRIPTOR_FOLLOWS: Final = 0x16

_CONNECTION_ID_HEADER: Final = bytes((CONNECTION_ID, 0, 16))

REQUEST_FIELDS: Final[Mapping[int, Field]] = MappingProxyType(
    {
        DEADLINE: Field("deadline", 4, 4),
        TRACEPARENT: Field("traceparent", 55, 55),
        STICKY_KEY: Field("sticky key", 1, 64),
        VERSION_PIN: Field("version pin", 1, 63),
        ACCEPTS_DESCRIPTOR: Field("accepts descriptor", 0, 0),
    }
)
REPLY_FIELDS: Final[Mapping[int, Field]] = MappingProxyType(
    {
        CONNECTION_ID: Field("connection id", 16, 16),
        VERSION: Field("version", 1, 63),
        ENDPOINT: Field("endpoint", 3, 317),
        RETRY_AFTER: Field("retry after", 4, 4),
        TEXT: Field("text", 0, MAX_TEXT_BYTES),
        DESCRIPTOR_FOLLOWS: Field("descriptor follows", 0, 0),
    }
)


def read_fields(data: bytes, at: int, end: int, known: Mapping[int, Field], code: ReplyCode) -> dict[int, bytes]:
    """Split `data[at:end]` into fields and judge what does not need the value.

    Args:
        data: holds the fields.
        at: where the first one begins.
        end: where the message ends; fields fill it exactly.
        known: the registry of this kind of message.
        code: `code` of the errors raised.

    Returns:
        The value of each field by number. A field that is not in `known` is in it too, and was not critical.

    Raises:
        RemoteProtocolError: cut short, beyond the end, twice, of a wrong size, or critical and unknown.
    """
    found: dict[int, bytes] = {}
    while at < end:
        start = at + _FIELD_HEADER
        if start > end:
            raise RemoteProtocolError(f"{end - at} bytes are left where a field needs at least {_FIELD_HEADER}", code=code)
        kind = data[at]
        number = kind & 0x7F
        at = start + (data[at + 1] << 8 | data[at + 2])
        if at > end:
            raise RemoteProtocolError(f"field 0x{kind:02x} reaches {at - end} bytes beyond the message", code=code)
        if number in found:
            raise RemoteProtocolError(f"field number 0x{number:02x} occurs twice; send it once", code=code)
        field = known.get(number)
        if field is None:
            if kind & CRITICAL:
                raise RemoteProtocolError(f"field 0x{kind:02x} is critical and not known here", code=code)
        elif not field.smallest <= at - start <= field.largest:
            raise RemoteProtocolError(f"{field.name} has {at - start} bytes instead of {_bounds(field)}", code=code)
        found[number] = data[start:at]
    return found


def _bounds(field: Field) -> str:
    return str(field.largest) if field.smallest == field.largest else f"{field.smallest} to {field.largest}"


def decode_body(data: bytes, at: int, end: int) -> HandshakeRequest:
    """The request in `data[at:end]`, which is everything behind the length.

    Raises:
        RemoteProtocolError: anything is wrong; `code` is `MALFORMED_REQUEST`, the message says what.
    """
    code = ReplyCode.MALFORMED_REQUEST
    start = at + 1
    at = start + data[at]
    if at == start:
        raise RemoteProtocolError("the service id has size 0; send <service>.<meshlet>.<namespace>", code=code)
    if at > end:
        raise RemoteProtocolError(f"the service id reaches {at - end} bytes beyond the request", code=code)
    try:
        # Latin-1 takes every byte, and no byte beyond ASCII is part of a DNS label.
        service_id = ServiceId.parse(data[start:at].decode("latin-1"))
    except InvalidNameError as error:
        raise RemoteProtocolError(str(error)[:MAX_TEXT_BYTES], code=code) from error
    if at == end:
        return HandshakeRequest(service_id)
    found = read_fields(data, at, end, REQUEST_FIELDS, code)
    timeout: float | None = None
    if (value := found.get(DEADLINE)) is not None:
        milliseconds = int.from_bytes(value, "big")
        if milliseconds == 0:
            raise RemoteProtocolError("the deadline is 0 ms; send 1 or more, or leave it out", code=code)
        timeout = milliseconds / 1000
    traceparent: str | None = None
    if (value := found.get(TRACEPARENT)) is not None:
        traceparent = value.decode("latin-1")
        if _TRACEPARENT.fullmatch(traceparent) is None:
            raise RemoteProtocolError(f"{traceparent!r} is not a traceparent as W3C Trace Context defines it", code=code)
    version_pin: str | None = None
    if (value := found.get(VERSION_PIN)) is not None:
        version_pin = value.decode("latin-1")
        if _LABEL_VALUE.fullmatch(version_pin) is None:
            raise RemoteProtocolError(f"version pin {version_pin!r} is not the value of a version label", code=code)
    return HandshakeRequest(service_id, found.get(STICKY_KEY), version_pin, timeout, traceparent, ACCEPTS_DESCRIPTOR in found)


def encode_request(request: HandshakeRequest) -> bytes:
    """The bytes a client sends: fields in ascending order, none of them critical.

    Raises:
        LocalProtocolError: a wish that no agent would accept, named.
    """
    body = [bytes((len(str(request.service_id)),)), str(request.service_id).encode("ascii")]
    if request.timeout is not None:
        if not request.timeout > 0:
            raise LocalProtocolError(f"the deadline is {request.timeout:g} s; it has to be more than 0")
        body.append(_field(DEADLINE, _milliseconds(request.timeout, 1)))
    if request.traceparent is not None:
        if _TRACEPARENT.fullmatch(request.traceparent) is None:
            raise LocalProtocolError(f"{request.traceparent[:64]!r} is not a traceparent as W3C Trace Context defines it")
        body.append(_field(TRACEPARENT, request.traceparent.encode("ascii")))
    if request.sticky_key is not None:
        if not 1 <= len(request.sticky_key) <= REQUEST_FIELDS[STICKY_KEY].largest:
            raise LocalProtocolError(f"the sticky key has {len(request.sticky_key)} bytes instead of 1 to 64")
        body.append(_field(STICKY_KEY, request.sticky_key))
    if request.version_pin is not None:
        if _LABEL_VALUE.fullmatch(request.version_pin) is None:
            raise LocalProtocolError(f"version pin {request.version_pin[:64]!r} is not the value of a version label")
        body.append(_field(VERSION_PIN, request.version_pin.encode("ascii")))
    if request.accepts_descriptor:
        body.append(_field(ACCEPTS_DESCRIPTOR, b""))
    data = b"".join(body)
    return bytes((FIRST_BYTE,)) + len(data).to_bytes(2, "big") + data


def encode_reply(code: ReplyCode, text: str, details: ReplyDetails | None) -> bytes:
    """The bytes of a reply. A refusal never says that a descriptor follows.

    Raises:
        LocalProtocolError: a detail that no client would accept, named.
    """
    body = b""
    if details is not None:
        if len(details.connection_id) != REPLY_FIELDS[CONNECTION_ID].largest:
            raise LocalProtocolError(f"the connection id has {len(details.connection_id)} bytes instead of 16")
        body = _CONNECTION_ID_HEADER + details.connection_id + _chosen(details.version or "", details.endpoint)
        if details.retry_after is not None:
            body += _field(RETRY_AFTER, _milliseconds(details.retry_after, 0))
    if text:
        body += _field(TEXT, fits_text(text))
    if details is not None and details.descriptor_follows and not code:
        body += _field(DESCRIPTOR_FOLLOWS | CRITICAL, b"")
    return bytes((FIRST_BYTE, code, len(body) >> 8, len(body) & 0xFF)) + body


@lru_cache(maxsize=1024)
def _chosen(version: str, endpoint: str) -> bytes:
    """The fields of what was chosen; the same few pods are named again and again."""
    fields = b""
    if version:
        fields = _checked(VERSION, version)
    if endpoint:
        fields += _checked(ENDPOINT, endpoint)
    return fields


def encode_notice(kind: int, text: str) -> bytes:
    """The bytes of a notice on a lease."""
    value = fits_text(text)
    return bytes((kind, len(value) >> 8, len(value) & 0xFF)) + value


def fits_text(text: str) -> bytes:
    """`text` as UTF-8, cut to 256 bytes at a character's end. What UTF-8 cannot say (lone surrogates) becomes `?`."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= MAX_TEXT_BYTES else data[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode("utf-8")


def _checked(number: int, text: str) -> bytes:
    field = REPLY_FIELDS[number]
    if not (text.isascii() and field.smallest <= len(text) <= field.largest):
        raise LocalProtocolError(f"{field.name} {text[:64]!r} is not {_bounds(field)} bytes of ASCII")
    return _field(number, text.encode("ascii"))


def _field(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value) >> 8, len(value) & 0xFF)) + value


def _milliseconds(seconds: float, smallest: int) -> bytes:
    """`seconds` as milliseconds, rounded up, within what four bytes can say (49 days)."""
    # 260.367 * 1000 is a little more than 260367: rounding up must not make that another millisecond
    return max(smallest, math.ceil(min(round(seconds * 1000, 6), _MAX_U32))).to_bytes(4, "big")
