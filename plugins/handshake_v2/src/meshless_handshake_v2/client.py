"""The client's side of the client handshake, version 2: request bytes out, reply bytes in, an event out.

Used by tests and tools in Python; applications use an SDK. This module must not do I/O or read a clock: the caller owns the
socket, receives the descriptor and falls back to version 1.
"""

from __future__ import annotations

from typing import Final, Never

import attrs

from meshless_core import HandshakeRequest, LocalProtocolError, RemoteProtocolError, ReplyCode
from meshless_handshake_v2.states import CLIENT, State, Step
from meshless_handshake_v2.wire import (
    CONNECTION_ID,
    DESCRIPTOR_FOLLOWS,
    ENDPOINT,
    FIRST_BYTE,
    MAX_BODY_BYTES,
    REPLY_FIELDS,
    REPLY_HEADER_BYTES,
    RETRY_AFTER,
    TEXT,
    VERSION,
    encode_request,
    read_fields,
)

__all__ = ["ClientHandshake", "Established", "Refused"]

_VERSION_1: Final = 1
_VERSION_1_REPLY_BYTES: Final = 2
_READING: Final = frozenset(
    {State.AWAITING_VERSION, State.AWAITING_VERSION_1_CODE, State.AWAITING_HEADER, State.AWAITING_FIELDS}
)


@attrs.frozen(kw_only=True)
class _Answer:
    """What both kinds of reply may carry.

    Attributes:
        connection_id: 16 bytes, the connection in the agents' logs; None if the agent did not say.
        version: the chosen version, None if none was chosen or the pod has none.
        endpoint: the chosen pod, `<namespace>/<pod>`, empty if none was chosen.
        retry_after: seconds after which trying again makes sense, None for no advice.
        text: why, for people; from the peer, so escape it before it is shown.
    """

    connection_id: bytes | None = None
    version: str | None = None
    endpoint: str = ""
    retry_after: float | None = None
    text: str = ""


@attrs.frozen(kw_only=True)
class Established(_Answer):
    """The agent said OK.

    Attributes:
        descriptor_follows: whether the next byte brings the connection's descriptor, and this connection becomes its lease;
            if not, from here on both directions are the application's bytes.
    """

    descriptor_follows: bool = False


@attrs.frozen(kw_only=True)
class Refused(_Answer):
    """The agent said no, and closes.

    Attributes:
        code: a `ReplyCode`, or a plain int that this version does not know: a refusal all the same.
        form: version of the reply's form; 1 from an agent that does not know, or does not know yet, what it was asked.
    """

    code: int
    form: int = FIRST_BYTE

    @property
    def name(self) -> str:
        """The code's name, `UNKNOWN` for one this version does not know."""
        return self.code.name if isinstance(self.code, ReplyCode) else "UNKNOWN"

    @property
    def retryable(self) -> bool:
        """Whether the same request may be tried again as it is; an unknown code is final."""
        return isinstance(self.code, ReplyCode) and self.code.retryable


class ClientHandshake:
    """One handshake as the client sees it.

    Send `request` whole, then feed what arrives until an event comes out. To never read an application's byte, or a descriptor,
    by accident, read at most `wanted` bytes at a time; whoever reads more finds the rest in `trailing_data`.
    """

    __slots__ = ("_buffer", "_offered", "_request", "_state", "_trailing")

    def __init__(self, request: HandshakeRequest) -> None:
        self._request = encode_request(request)
        self._offered = request.accepts_descriptor
        self._state = State.AWAITING_VERSION
        self._buffer = b""
        self._trailing = b""

    @property
    def state(self) -> State:
        """Where the handshake stands, a key of `meshless_handshake_v2.states.CLIENT`."""
        return self._state

    @property
    def request(self) -> bytes:
        """The request, whole. Application bytes may be sent right behind it unless it offers to receive a descriptor."""
        return self._request

    @property
    def wanted(self) -> int:
        """Bytes that may be read next without reaching beyond the reply; 0 when the verdict is known."""
        match self._state:
            case State.AWAITING_VERSION | State.AWAITING_VERSION_1_CODE:
                whole = _VERSION_1_REPLY_BYTES  # the shorter of the two forms
            case State.AWAITING_HEADER:
                whole = REPLY_HEADER_BYTES
            case State.AWAITING_FIELDS:
                whole = REPLY_HEADER_BYTES + (self._buffer[2] << 8 | self._buffer[3])
            case _:
                return 0
        return whole - len(self._buffer)

    @property
    def trailing_data(self) -> bytes:
        """Application bytes that arrived behind an OK, in order."""
        return self._trailing

    def receive_data(self, data: bytes) -> Established | Refused | None:
        """Feed bytes as they arrive.

        Args:
            data: what was read from the agent; b"" means end-of-file.

        Returns:
            The verdict once it is known, None while more bytes are needed.

        Raises:
            RemoteProtocolError: the bytes are no reply, or end too early; `code` has no receiver on this side and is
                always `INTERNAL_ERROR`.
            LocalProtocolError: called again after the verdict was returned or an error was raised.
        """
        if self._state not in _READING:
            raise LocalProtocolError(f"cannot receive data in a handshake that is {self._state.value}")
        if not data:
            self._break(Step.END_OF_FILE, "the agent closed the connection without a complete reply")
        buffer = self._buffer = self._buffer + data
        if self._state is State.AWAITING_VERSION:
            if buffer[0] not in {FIRST_BYTE, _VERSION_1}:
                self._break(
                    Step.OTHER_VERSION,
                    f"the reply has version {buffer[0]} instead of {FIRST_BYTE}: is this the socket of an agent?",
                )
            self._take(Step.VERSION_2 if buffer[0] == FIRST_BYTE else Step.VERSION_1)
        if self._state is State.AWAITING_VERSION_1_CODE:
            return self._version_1_code(buffer)
        if self._state is State.AWAITING_HEADER and len(buffer) >= REPLY_HEADER_BYTES:
            length = buffer[2] << 8 | buffer[3]
            if length > MAX_BODY_BYTES:
                self._break(Step.LENGTH_OUT_OF_BOUNDS, f"the reply has length {length}, more than {MAX_BODY_BYTES}")
            self._take(Step.LENGTH)
        if self._state is State.AWAITING_FIELDS:
            end = REPLY_HEADER_BYTES + (buffer[2] << 8 | buffer[3])
            if len(buffer) >= end:
                return self._complete(buffer, end)
        return None

    def receive_descriptor(self, byte: bytes, descriptors: int) -> None:
        """Judge what came behind a reply with `descriptor_follows`. Then make a `ClientLease`, or close all that came.

        Args:
            byte: what `recvmsg` returned, at most one byte; b"" means end-of-file.
            descriptors: how many descriptors came with it.

        Raises:
            RemoteProtocolError: not the byte 0 with exactly one descriptor.
            LocalProtocolError: no descriptor follows.
        """
        if self._state is not State.AWAITING_DESCRIPTOR:
            raise LocalProtocolError(f"cannot receive a descriptor in a handshake that is {self._state.value}")
        if not byte:
            self._break(Step.END_OF_FILE, "the agent closed the connection before it sent the descriptor")
        if byte != b"\x00" or descriptors != 1:
            self._break(
                Step.NO_DESCRIPTOR, f"bytes {byte.hex()} came with {descriptors} descriptors instead of 00 with one descriptor"
            )
        self._take(Step.DESCRIPTOR)

    def _version_1_code(self, buffer: bytes) -> Refused | None:
        if len(buffer) < _VERSION_1_REPLY_BYTES:
            return None
        if buffer[1] == ReplyCode.OK:
            self._break(Step.CODE_OK, "the agent said yes in version 1, which it was not asked in")
        self._take(Step.CODE_REFUSAL)
        self._buffer = b""
        return Refused(code=_known(buffer[1]), form=_VERSION_1)

    def _complete(self, data: bytes, end: int) -> Established | Refused:
        code = data[1]
        try:
            found = read_fields(data, REPLY_HEADER_BYTES, end, REPLY_FIELDS, ReplyCode.INTERNAL_ERROR)
        except RemoteProtocolError as error:
            self._break(Step.MALFORMED_BODY, str(error), error)
        follows = DESCRIPTOR_FOLLOWS in found
        if follows and (code or not self._offered):
            cause = "in a refusal" if code else "to a client that did not offer to receive one"
            self._break(Step.MALFORMED_BODY, f"the agent announced a descriptor {cause}")
        retry_after = found.get(RETRY_AFTER)
        version = found.get(VERSION)
        answer = _Answer(
            connection_id=found.get(CONNECTION_ID),
            version=version.decode("ascii", "replace") if version is not None else None,
            endpoint=found.get(ENDPOINT, b"").decode("ascii", "replace"),
            retry_after=int.from_bytes(retry_after, "big") / 1000 if retry_after is not None else None,
            text=found.get(TEXT, b"").decode("utf-8", "replace"),
        )
        said = attrs.asdict(answer)
        self._buffer = b""
        if code:
            self._take(Step.CODE_REFUSAL)
            return Refused(code=_known(code), **said)
        self._take(Step.CODE_OK_DESCRIPTOR if follows else Step.CODE_OK)
        self._trailing = data[end:]
        return Established(descriptor_follows=follows, **said)

    def _take(self, step: Step) -> None:
        self._state = CLIENT[self._state][step]

    def _break(self, step: Step, message: str, cause: Exception | None = None) -> Never:
        self._take(step)
        self._buffer = b""
        raise RemoteProtocolError(message, code=ReplyCode.INTERNAL_ERROR) from cause


def _known(code: int) -> int:
    try:
        return ReplyCode(code)
    except ValueError:
        return code  # a newer agent may know more codes
