"""What an agent and the issuer say to each other, sans-IO: bytes in, messages out.

A message is a length (4 bytes, big-endian, at most 64 KiB, from an agent 16 KiB) and that many bytes of JSON. One request per
connection: `issue` gets one reply; `watch` gets the trust bundle at once and again after each change, for as long as the agent
stays connected. A private key never crosses this protocol. This module must not do I/O or read a clock.
"""

from __future__ import annotations

import enum
import json
from typing import Final

import attrs

from meshless_core.errors import InvalidNameError, LocalProtocolError, RemoteProtocolError
from meshless_core.types import Identity

__all__ = [
    "MAX_REPLY_BYTES",
    "MAX_REQUEST_BYTES",
    "BundleReply",
    "ErrorReply",
    "FrameReader",
    "IssueReply",
    "IssueRequest",
    "IssuerCode",
    "Reply",
    "Request",
    "WatchRequest",
    "decode_reply",
    "decode_request",
    "encode",
]

MAX_REQUEST_BYTES: Final = 16 * 1024
MAX_REPLY_BYTES: Final = 64 * 1024
_VERSION: Final = 1
_LENGTH_BYTES: Final = 4
_MAX_TEXT: Final = 256


class IssuerCode(enum.IntEnum):
    """Why the issuer refused. Values are wire format: never renumber."""

    MALFORMED = 1
    DENIED = 2
    BAD_REQUEST = 3
    BUSY = 4
    TIMEOUT = 5
    INTERNAL = 255


@attrs.frozen
class IssueRequest:
    """Ask for a leaf.

    Attributes:
        identity: what the leaf shall prove.
        request_pem: PKCS #10 request, PEM; only its key and signature count.
    """

    identity: Identity
    request_pem: str


@attrs.frozen
class WatchRequest:
    """Ask for the trust bundle, now and after every change."""


@attrs.frozen
class IssueReply:
    """A leaf.

    Attributes:
        chain_pem: the leaf, then intermediates.
        bundle_pem: all trusted roots; the first is the one that issues.
    """

    chain_pem: str
    bundle_pem: str


@attrs.frozen
class BundleReply:
    """The trust bundle as of now, PEM; the first root is the one that issues."""

    bundle_pem: str


@attrs.frozen
class ErrorReply:
    """A refusal: a code, and text for people of at most 256 characters."""

    code: IssuerCode
    text: str


Request = IssueRequest | WatchRequest
Reply = IssueReply | BundleReply | ErrorReply


def encode(message: Request | Reply) -> bytes:
    """The bytes of one message.

    Raises:
        LocalProtocolError: the message is larger than the protocol allows.
    """
    fields: dict[str, object]
    match message:
        case IssueRequest(identity, request_pem):
            fields = {"op": "issue", "identity": identity.uri, "request": request_pem}
        case WatchRequest():
            fields = {"op": "watch"}
        case IssueReply(chain_pem, bundle_pem):
            fields = {"op": "issued", "chain": chain_pem, "bundle": bundle_pem}
        case BundleReply(bundle_pem):
            fields = {"op": "bundle", "bundle": bundle_pem}
        case ErrorReply(code, text):
            fields = {"op": "error", "code": int(code), "text": text[:_MAX_TEXT]}
    payload = json.dumps({"version": _VERSION, **fields}).encode("ascii")
    limit = MAX_REQUEST_BYTES if isinstance(message, IssueRequest | WatchRequest) else MAX_REPLY_BYTES
    if len(payload) > limit:
        raise LocalProtocolError(f"a message of {len(payload)} bytes does not fit the issuer protocol's {limit} bytes")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


def decode_request(payload: bytes) -> Request:
    """Read what an agent sent.

    Raises:
        RemoteProtocolError: not a request; `code` is the `IssuerCode` to answer with.
    """
    fields = _decode(payload)
    match fields.pop("op", None):
        case "issue":
            identity, request_pem = _texts(fields, "identity", "request")
            try:
                return IssueRequest(Identity.parse(identity), request_pem)
            except InvalidNameError as error:
                raise _malformed(str(error)) from error
        case "watch":
            _texts(fields)
            return WatchRequest()
        case _:
            raise _malformed("the message is neither an issue nor a watch request")


def decode_reply(payload: bytes) -> Reply:
    """Read what the issuer sent.

    Raises:
        RemoteProtocolError: not a reply.
    """
    fields = _decode(payload)
    match fields.pop("op", None):
        case "issued":
            return IssueReply(*_texts(fields, "chain", "bundle"))
        case "bundle":
            return BundleReply(*_texts(fields, "bundle"))
        case "error":
            code = fields.pop("code", None)
            (text,) = _texts(fields, "text")
            if type(code) is not int:
                raise _malformed("the field 'code' is not an integer")
            known = IssuerCode(code) if code in set(IssuerCode) else IssuerCode.INTERNAL
            return ErrorReply(known, text[:_MAX_TEXT])
        case _:
            raise _malformed("the message is no reply of an issuer")


class FrameReader:
    """Cuts a byte stream into payloads; holds at most one frame, never more than `limit` bytes of it."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        """Make a reader that refuses a payload of more than `limit` bytes."""
        self._buffer = bytearray()
        self._limit = limit

    @property
    def wanted(self) -> int:
        """How many bytes to read next: what is missing of the length, or of the payload. Never 0 after `next_payload`."""
        return self._end() - len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Append bytes of the stream."""
        self._buffer += data

    def next_payload(self) -> bytes | None:
        """The next complete payload, None while there is none.

        Raises:
            RemoteProtocolError: an announced length of 0 or above the limit.
        """
        end = self._end()
        if end == _LENGTH_BYTES or len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        return payload

    def _end(self) -> int:
        if len(self._buffer) < _LENGTH_BYTES:
            return _LENGTH_BYTES
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if not 0 < length <= self._limit:
            raise _malformed(f"a message of {length} bytes was announced; 1 to {self._limit} are allowed")
        return _LENGTH_BYTES + length


def _decode(payload: bytes) -> dict[str, object]:
    try:
        fields = json.loads(payload.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _malformed("the message is not JSON") from error
    if not isinstance(fields, dict):
        raise _malformed("the message is not a JSON object")
    if fields.pop("version", None) != _VERSION:
        raise _malformed(f"the message is not of version {_VERSION} of the issuer protocol; upgrade the older side")
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


def _texts(fields: dict[str, object], *names: str) -> tuple[str, ...]:
    """The values of exactly these fields, all of them text."""
    if set(fields) != set(names):
        raise _malformed(f"the message must have exactly these fields beside op and version: {', '.join(names) or 'none'}")
    values = tuple(value for name in names if isinstance(value := fields[name], str))
    if len(values) != len(names):
        raise _malformed("a field of the message is not text")
    return values


def _malformed(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code=int(IssuerCode.MALFORMED))
