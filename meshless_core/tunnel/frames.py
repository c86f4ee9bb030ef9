"""The frames of tunnel protocol version 1 and their bytes (`protocol/tunnel-v1.md`).

A frame is one byte of type, three bytes of payload length (big-endian), and the payload. A type or a field tag with the high
bit set may be ignored by who does not know it; without it, not knowing it is an error. This module does no I/O and keeps no
state.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import attrs

from meshless_core.errors import InvalidNameError, LocalProtocolError, RemoteProtocolError
from meshless_core.tunnel.preface import OpenReply, OpenRequest
from meshless_core.types import PodRef, ReplyCode, ServiceId, is_dns_label

__all__ = [
    "HEADER_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_DATA_BYTES",
    "MAX_REASON_CHARS",
    "TUNNEL_VERSION",
    "End",
    "Event",
    "Fin",
    "FrameType",
    "Gone",
    "Reset",
    "ResetCode",
    "decode_control",
    "encode_end",
    "encode_fin",
    "encode_gone",
    "encode_open",
    "encode_reply",
    "encode_reset",
]

TUNNEL_VERSION: Final = 1
HEADER_BYTES: Final = 4

MAX_DATA_BYTES: Final = 4 * 16384 - HEADER_BYTES
"""Most payload bytes of a DATA frame: header and payload fill four TLS records exactly."""

MAX_CONTROL_BYTES: Final = 4096
"""Most payload bytes of any other frame."""

MAX_REASON_CHARS: Final = 256
"""A reason is cut at this many characters, by the sender and again by the receiver."""

MAX_TEXT_BYTES: Final = 1024
"""A field of text: far above any name Kubernetes allows."""

IGNORABLE: Final = 0x80


class FrameType(enum.IntEnum):
    """First byte of a frame. Values are wire format: never renumber."""

    OPEN = 1
    OPENED = 2
    REFUSED = 3
    DATA = 4
    FIN = 5
    END = 6
    RESET = 7
    GONE = 0x88


class ResetCode(enum.IntEnum):
    """Why a side threw the session away. Values are wire format. An unknown one is read as `RESET`."""

    RESET = 1
    ABORTED = 2
    IDLE_TIMEOUT = 3
    PROTOCOL_ERROR = 4
    INTERNAL_ERROR = 5
    UNSUPPORTED_VERSION = 6


class _Field(enum.IntEnum):
    """Tags of the fields of OPEN."""

    CONNECTION_ID = 0x01
    SERVICE = 0x02
    POD = 0x03
    POD_UID = 0x04
    VERSION = 0x05
    DEADLINE = 0x06
    SOURCE_POD = 0x87
    TRACEPARENT = 0x88


@attrs.frozen
class Fin:
    """The peer's plain end sent end-of-file; the other direction lives on."""


@attrs.frozen
class Gone:
    """The peer's plain end, which has sent end-of-file, takes nothing either: it is gone as a whole."""


@attrs.frozen
class End:
    """The peer has delivered everything and needs this connection no more."""


@attrs.frozen
class Reset:
    """The peer throws the session away.

    Attributes:
        code: why.
        reason: for people; at most 256 characters.
    """

    code: ResetCode
    reason: str


Event = OpenRequest | OpenReply | Fin | Gone | End | Reset | memoryview
"""What a received frame means; a `memoryview` is payload of DATA, valid until the buffer it came in is used again."""

_FIELD_HEADER: Final = struct.Struct(">BH")


def _frame(kind: FrameType, payload: bytes = b"") -> bytes:
    if len(payload) > MAX_CONTROL_BYTES:
        raise LocalProtocolError(f"{kind.name} frame of {len(payload)} bytes: at most {MAX_CONTROL_BYTES} are allowed")
    return bytes((kind,)) + len(payload).to_bytes(3, "big") + payload


def _field(tag: _Field, value: bytes) -> bytes:
    return _FIELD_HEADER.pack(tag, len(value)) + value


def _text(tag: _Field, value: str) -> bytes:
    raw = value.encode()
    if not 0 < len(raw) <= MAX_TEXT_BYTES:
        raise LocalProtocolError(f"field {tag.name} of OPEN has {len(raw)} bytes: 1 to {MAX_TEXT_BYTES} are allowed")
    return _field(tag, raw)


def encode_open(request: OpenRequest) -> bytes:
    """The OPEN frame.

    Raises:
        LocalProtocolError: a value cannot be said in this protocol.
    """
    if len(request.connection_id) != 16:
        raise LocalProtocolError(f"a connection id has 16 bytes, this one has {len(request.connection_id)}")
    if not 0 < request.deadline_ms < 1 << 32:
        raise LocalProtocolError(f"a deadline is 1 to 2**32-1 milliseconds, not {request.deadline_ms}")
    fields = [
        _field(_Field.CONNECTION_ID, request.connection_id),
        _text(_Field.SERVICE, str(request.service)),
        _text(_Field.POD, str(request.pod)),
        _text(_Field.POD_UID, request.pod_uid),
        _field(_Field.DEADLINE, request.deadline_ms.to_bytes(4, "big")),
    ]
    if request.version is not None:
        fields.append(_text(_Field.VERSION, request.version))
    if request.source_pod is not None:
        fields.append(_text(_Field.SOURCE_POD, str(request.source_pod)))
    if request.traceparent is not None:
        fields.append(_text(_Field.TRACEPARENT, request.traceparent))
    return _frame(FrameType.OPEN, bytes((TUNNEL_VERSION,)) + b"".join(fields))


def encode_reply(reply: OpenReply) -> bytes:
    """OPENED for `OK`, else REFUSED with code and reason."""
    if reply.code is ReplyCode.OK:
        return _frame(FrameType.OPENED)
    return _frame(FrameType.REFUSED, bytes((reply.code,)) + _reason(reply.reason))


def encode_fin() -> bytes:
    """The FIN frame."""
    return _frame(FrameType.FIN)


def encode_gone() -> bytes:
    """The GONE frame."""
    return _frame(FrameType.GONE)


def encode_end() -> bytes:
    """The END frame."""
    return _frame(FrameType.END)


def encode_reset(code: ResetCode, reason: str) -> bytes:
    """The RESET frame; `reason` is cut at 256 characters."""
    return _frame(FrameType.RESET, bytes((code,)) + _reason(reason))


def _reason(text: str) -> bytes:
    return text[:MAX_REASON_CHARS].encode(errors="replace")


def decode_control(kind: FrameType, payload: bytes) -> Event:
    """What a whole frame other than DATA means.

    Raises:
        RemoteProtocolError: the payload is not what the frame's type promises; `code` is a `ResetCode`.
    """
    match kind:
        case FrameType.OPEN:
            return _decode_open(payload)
        case FrameType.OPENED:
            _fields(kind, payload)  # none is defined yet: only ignorable ones pass
            return OpenReply(ReplyCode.OK)
        case FrameType.REFUSED:
            number, reason = _coded(kind, payload)
            if number == ReplyCode.OK:
                raise violation("REFUSED frame with code OK")
            return OpenReply(ReplyCode(number) if number in _REPLY_CODES else ReplyCode.INTERNAL_ERROR, reason)
        case FrameType.RESET:
            number, reason = _coded(kind, payload)
            return Reset(ResetCode(number) if number in _RESET_CODES else ResetCode.RESET, reason)
        case FrameType.FIN | FrameType.END | FrameType.GONE:
            if payload:
                raise violation(f"{kind.name} frame with {len(payload)} bytes of payload, it has none")
            return _EMPTY[kind]
        case FrameType.DATA:
            raise LocalProtocolError("a DATA frame is not decoded, its payload is passed on")


_EMPTY: Final[dict[FrameType, Event]] = {FrameType.FIN: Fin(), FrameType.END: End(), FrameType.GONE: Gone()}
_REPLY_CODES: Final = frozenset(ReplyCode)
_RESET_CODES: Final = frozenset(ResetCode)


def violation(message: str, code: ResetCode = ResetCode.PROTOCOL_ERROR) -> RemoteProtocolError:
    """The error for bytes the peer should not have sent."""
    return RemoteProtocolError(f"the other agent violated the tunnel protocol: {message}", code=code)


def _coded(kind: FrameType, payload: bytes) -> tuple[int, str]:
    """Code byte and reason of REFUSED and RESET."""
    if not payload:
        raise violation(f"{kind.name} frame without a code")
    return payload[0], _decode_text(kind.name, payload[1:])[:MAX_REASON_CHARS]


def _decode_text(what: str, raw: bytes) -> str:
    if len(raw) > MAX_TEXT_BYTES:
        raise violation(f"text of {what} has {len(raw)} bytes, at most {MAX_TEXT_BYTES} are allowed")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise violation(f"text of {what} is not UTF-8") from error


def _fields(kind: FrameType, payload: bytes) -> dict[_Field, bytes]:
    """Split TLV fields: tag, two bytes of length, value; each tag at most once."""
    found: dict[_Field, bytes] = {}
    known = _OPEN_FIELDS if kind is FrameType.OPEN else frozenset[int]()
    at = 0
    while at < len(payload):
        if at + _FIELD_HEADER.size > len(payload):
            raise violation(f"{kind.name} frame ends inside a field's header")
        tag, size = _FIELD_HEADER.unpack_from(payload, at)
        at += _FIELD_HEADER.size
        if at + size > len(payload):
            raise violation(f"{kind.name} frame ends inside field 0x{tag:02x}")
        if tag in known:
            if tag in found:
                raise violation(f"{kind.name} frame has field 0x{tag:02x} twice")
            found[_Field(tag)] = payload[at : at + size]
        elif not tag & IGNORABLE:
            raise violation(f"{kind.name} frame has unknown field 0x{tag:02x}, which must not be ignored")
        at += size
    return found


_OPEN_FIELDS: Final = frozenset[int](_Field)


def _decode_open(payload: bytes) -> OpenRequest:
    if not payload:
        raise violation("OPEN frame without a version")
    if payload[0] != TUNNEL_VERSION:
        message = f"tunnel version {payload[0]} is not spoken here, only {TUNNEL_VERSION}"
        raise violation(message, ResetCode.UNSUPPORTED_VERSION)
    fields = _fields(FrameType.OPEN, payload[1:])
    for tag in (_Field.CONNECTION_ID, _Field.SERVICE, _Field.POD, _Field.POD_UID, _Field.DEADLINE):
        if tag not in fields:
            raise violation(f"OPEN frame without field {tag.name}")
    connection_id = fields[_Field.CONNECTION_ID]
    deadline = fields[_Field.DEADLINE]
    if len(connection_id) != 16:
        raise violation(f"connection id of {len(connection_id)} bytes, it has 16")
    if len(deadline) != 4 or not any(deadline):
        raise violation("deadline is not four bytes, or zero")
    try:
        service = ServiceId.parse(_decode_text("SERVICE", fields[_Field.SERVICE]))
    except InvalidNameError as error:
        raise violation(str(error)) from error
    return OpenRequest(
        connection_id=connection_id,
        service=service,
        pod=_pod(_Field.POD, fields[_Field.POD]),
        pod_uid=_printable(_Field.POD_UID, fields[_Field.POD_UID]),
        version=_printable(_Field.VERSION, fields[_Field.VERSION]) if _Field.VERSION in fields else None,
        source_pod=_pod(_Field.SOURCE_POD, fields[_Field.SOURCE_POD]) if _Field.SOURCE_POD in fields else None,
        deadline_ms=int.from_bytes(deadline, "big"),
        traceparent=_printable(_Field.TRACEPARENT, fields[_Field.TRACEPARENT]) if _Field.TRACEPARENT in fields else None,
    )


def _printable(tag: _Field, raw: bytes) -> str:
    """Text that is safe in a log line: printable ASCII without spaces, not empty."""
    text = _decode_text(tag.name, raw)
    if not text or not all("!" <= char <= "~" for char in text):
        raise violation(f"field {tag.name} is empty or not printable ASCII")
    return text


def _pod(tag: _Field, raw: bytes) -> PodRef:
    """`<namespace>/<name>`: a DNS label and a DNS subdomain (RFC 1123, as Kubernetes names pods)."""
    namespace, slash, name = _decode_text(tag.name, raw).partition("/")
    if not slash or not is_dns_label(namespace) or len(name) > 253 or not all(map(is_dns_label, name.split("."))):
        raise violation(f"field {tag.name} is not <namespace>/<pod>")
    return PodRef(namespace, name)
