"""The agent's side of the client handshake, version 2: request bytes in, a request out, reply and notice bytes out.

Why it has two ways through: nearly every client sends the whole request in one write, and this object is made once per
connection. The shortcut in `receive_data` answers that case without walking the table; everything else walks it. Both must give
the same result for the same bytes, and a test holds them to it. This module must not do I/O or read a clock: the caller owns
the deadline, and sends the descriptor.
"""

from __future__ import annotations

from typing import Final, Never

from meshless_core import HandshakeRequest, LocalProtocolError, RemoteProtocolError, ReplyCode, ReplyDetails
from meshless_handshake_v2.states import REJECTIONS, SERVER, State, Step
from meshless_handshake_v2.wire import (
    FIRST_BYTE,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    MIN_BODY_BYTES,
    NOTICE_KINDS,
    decode_body,
    encode_notice,
    encode_reply,
)

__all__ = ["ServerHandshake"]

_AWAITING_VERSION: Final = State.AWAITING_VERSION
_REQUESTED: Final = State.REQUESTED
_READING: Final = frozenset(state for state, steps in SERVER.items() if Step.END_OF_FILE in steps)
_LEASES: Final = frozenset(state for state, steps in SERVER.items() if Step.UNEXPECTED_BYTE in steps)
_NOTICES: Final = {"drain": Step.NOTICE_DRAIN, "revoked": Step.NOTICE_REVOKED}


class ServerHandshake:
    """One handshake, and the lease it may become, as the agent sees it.

    Satisfies `meshless_core.HandshakeProtocol` and `meshless_core.LeaseHandshake`. Holds at most 4098 bytes of an incomplete
    request. What the caller read beyond a complete request is kept as `trailing_data`, so the caller's read size bounds it.
    """

    __slots__ = ("_accepts_descriptor", "_buffer", "_state", "_trailing")

    def __init__(self) -> None:
        self._state = _AWAITING_VERSION
        self._buffer = b""
        self._trailing = b""
        self._accepts_descriptor = False

    @property
    def state(self) -> State:
        """Where the handshake stands, a key of `meshless_handshake_v2.states.SERVER`."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """Application bytes that arrived behind the request, in order; empty until the request is complete."""
        return self._trailing

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        """Feed bytes as they arrive: of the request, and after a reply with a descriptor, of the lease.

        Args:
            data: what was read from the client; b"" means that it sent end-of-file, which on a lease frees its slot.

        Returns:
            The request once it is complete, None while more bytes are needed and at the end of a lease.

        Raises:
            RemoteProtocolError: the bytes are not a request, or came on a lease; `code` is the `ReplyCode` to answer with. A
                lease is answered with a `revoked` notice.
            LocalProtocolError: called again after the request was returned or an error was raised.
        """
        size = len(data)
        if self._state is _AWAITING_VERSION and size > HEADER_BYTES and data[0] == FIRST_BYTE:
            length = data[1] << 8 | data[2]
            end = length + HEADER_BYTES
            if end <= size and MIN_BODY_BYTES <= length <= MAX_BODY_BYTES:
                return self._complete(data, end)
        return self._walk(data)

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        """Bytes of the reply.

        Args:
            code: the verdict.
            text: for people; cut to 256 bytes.
            details: what else is known. `descriptor_follows` counts with `OK` only; then the caller sends the byte 0 with the
                descriptor next, in a `sendmsg` of its own, and keeps the connection as the lease.

        Raises:
            LocalProtocolError: `OK` without a complete request, any reply after `OK`, a descriptor for a client that did not
                offer to receive one or that sent bytes already, or details that the wire cannot carry.
        """
        if code:
            step = Step.CODE_REFUSAL
        elif details is not None and details.descriptor_follows:
            step = Step.CODE_OK_DESCRIPTOR
        else:
            step = Step.CODE_OK
        following = SERVER[self._state].get(step)
        if following is None:
            raise LocalProtocolError(f"cannot reply {code.name} to a handshake that is {self._state.value}")
        if following is State.LEASED and (self._trailing or not self._accepts_descriptor):
            cause = "has sent bytes behind its request" if self._accepts_descriptor else "did not offer to receive one"
            raise LocalProtocolError(f"cannot hand a descriptor to a client that {cause}; relay instead")
        data = encode_reply(code, text, details)
        self._state = following
        return data

    def notice(self, kind: str, text: str = "") -> bytes:
        """Bytes of a notice on the lease.

        Args:
            kind: "drain" (finish soon) or "revoked" (stop now). A notice after "revoked" is harmless.
            text: why, for people; cut to 256 bytes.

        Raises:
            LocalProtocolError: another kind, or no lease.
        """
        step = _NOTICES.get(kind)
        if step is None:
            raise LocalProtocolError(f"{kind!r} is not a kind of notice: use one of {', '.join(_NOTICES)}")
        following = SERVER[self._state].get(step)
        if following is None:
            raise LocalProtocolError(f"cannot send a {kind} notice on a handshake that is {self._state.value}")
        self._state = following
        return encode_notice(NOTICE_KINDS[kind], text)

    def _walk(self, data: bytes) -> HandshakeRequest | None:
        """Take the table step by step, as far as the bytes reach."""
        if self._state in _LEASES:
            self._receive_on_lease(data)
            return None
        if self._state not in _READING:
            raise LocalProtocolError(f"cannot receive data in a handshake that is {self._state.value}")
        if not data:
            self._reject(Step.END_OF_FILE, f"the client sent end of file while the agent was {self._state.value}")
        buffer = self._buffer = self._buffer + data
        if self._state is State.AWAITING_VERSION:
            if buffer[0] != FIRST_BYTE:
                self._reject(Step.OTHER_VERSION, f"this handshake has version {FIRST_BYTE}, not {buffer[0]}")
            self._take(Step.VERSION_2)
        if self._state is State.AWAITING_LENGTH and len(buffer) >= HEADER_BYTES:
            length = buffer[1] << 8 | buffer[2]
            if not MIN_BODY_BYTES <= length <= MAX_BODY_BYTES:
                bounds = f"{MIN_BODY_BYTES} to {MAX_BODY_BYTES}"
                self._reject(Step.LENGTH_OUT_OF_BOUNDS, f"the request has length {length}; send {bounds}")
            self._take(Step.LENGTH)
        if self._state is State.AWAITING_BODY:
            end = (buffer[1] << 8 | buffer[2]) + HEADER_BYTES
            if len(buffer) >= end:
                return self._complete(buffer, end)
            self._take(Step.PART_OF_BODY)
        return None

    def _complete(self, data: bytes, end: int) -> HandshakeRequest:
        """Judge the body `data[3:end]` and keep what is behind it."""
        try:
            request = decode_body(data, HEADER_BYTES, end)
        except RemoteProtocolError:
            # The shortcut comes here from AWAITING_VERSION, so the outcome is written down rather than looked up.
            self._state = State.REJECTED
            self._buffer = b""
            raise
        self._state = _REQUESTED
        self._buffer = b""
        self._trailing = data[end:]
        self._accepts_descriptor = request.accepts_descriptor
        return request

    def _receive_on_lease(self, data: bytes) -> None:
        if not data:
            self._take(Step.END_OF_FILE)
            return
        self._take(Step.UNEXPECTED_BYTE)
        raise RemoteProtocolError(
            f"the client sent {len(data)} bytes on a lease; they belong on the descriptor it was given",
            code=ReplyCode.MALFORMED_REQUEST,
        )

    def _take(self, step: Step) -> None:
        self._state = SERVER[self._state][step]

    def _reject(self, step: Step, message: str) -> Never:
        self._take(step)
        self._buffer = b""
        raise RemoteProtocolError(message, code=REJECTIONS[step])
