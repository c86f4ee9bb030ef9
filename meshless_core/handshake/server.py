"""The agent's side of the client handshake, version 1: request bytes in, a request out, reply bytes out.

Why it has two ways through: nearly every client sends the whole request in one write, and this object is made once per
connection. The shortcut in `receive_data` answers that case without walking the table; everything else walks it. Both must give
the same result for the same bytes, and a test holds them to it. This module must not do I/O or read a clock: the caller owns
the deadline.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Never

from meshless_core.errors import InvalidNameError, LocalProtocolError, RemoteProtocolError
from meshless_core.handshake.states import REJECTIONS, SERVER, State, Step
from meshless_core.hookspecs import HandshakeRequest, ReplyDetails
from meshless_core.types import ReplyCode, ServiceId

__all__ = ["FIRST_BYTE", "ServerHandshake"]

FIRST_BYTE: Final = 1
"""The version byte: the first byte of a request and of a reply."""

_HEADER: Final = 2
_REPLIES: Final = {code: bytes((FIRST_BYTE, code)) for code in ReplyCode}
_AWAITING_VERSION: Final = State.AWAITING_VERSION
_REQUESTED: Final = State.REQUESTED
_CODE_OK: Final = Step.CODE_OK
_CODE_REFUSAL: Final = Step.CODE_REFUSAL
_READING: Final = frozenset(state for state, steps in SERVER.items() if Step.END_OF_FILE in steps)


class ServerHandshake:
    """One handshake as the agent sees it; satisfies `meshless_core.HandshakeProtocol`.

    Holds at most 256 bytes of an incomplete request. What the caller read beyond a complete request is kept as
    `trailing_data`, so the caller's read size bounds it.
    """

    __slots__ = ("_buffer", "_state", "_trailing")

    def __init__(self) -> None:
        self._state = _AWAITING_VERSION
        self._buffer = b""
        self._trailing = b""

    @property
    def state(self) -> State:
        """Where the handshake stands, a key of `meshless_core.handshake.states.SERVER`."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """Application bytes that arrived behind the request, in order; empty until the request is complete."""
        return self._trailing

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        """Feed bytes as they arrive.

        Args:
            data: what was read from the client; b"" means that it sent end-of-file.

        Returns:
            The request once it is complete, None while more bytes are needed.

        Raises:
            RemoteProtocolError: the bytes are not a request; `code` is the `ReplyCode` to answer with.
            LocalProtocolError: called again after the request was returned or an error was raised.
        """
        size = len(data)
        if self._state is _AWAITING_VERSION and size > _HEADER and data[0] == FIRST_BYTE:
            end = data[1] + _HEADER
            if _HEADER < end <= size:
                return self._complete(data, end)
        return self._walk(data)

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        """Bytes of the reply.

        Args:
            code: the verdict.
            text: for people; version 1 cannot carry it.
            details: likewise.

        Raises:
            LocalProtocolError: `OK` without a complete request, or any reply after `OK`.
        """
        following = SERVER[self._state].get(_CODE_REFUSAL if code else _CODE_OK)
        if following is None:
            raise LocalProtocolError(f"cannot reply {code.name} to a handshake that is {self._state.value}")
        self._state = following
        return _REPLIES[code]

    def _walk(self, data: bytes) -> HandshakeRequest | None:
        """Take the table step by step, as far as the bytes reach."""
        if self._state not in _READING:
            raise LocalProtocolError(f"cannot receive data in a handshake that is {self._state.value}")
        if not data:
            self._reject(Step.END_OF_FILE, f"the client sent end of file while the agent was {self._state.value}")
        buffer = self._buffer = self._buffer + data
        if self._state is State.AWAITING_VERSION:
            if buffer[0] != FIRST_BYTE:
                self._reject(Step.OTHER_VERSION, f"no handshake has version {buffer[0]}; send version {FIRST_BYTE}")
            self._take(Step.VERSION_1)
        if self._state is State.AWAITING_SIZE and len(buffer) > 1:
            if buffer[1] == 0:
                self._reject(Step.SIZE_ZERO, "the service id has size 0; send <service>.<meshlet>.<namespace>")
            self._take(Step.SIZE)
        if self._state is State.AWAITING_SERVICE_ID:
            end = buffer[1] + _HEADER
            if len(buffer) >= end:
                return self._complete(buffer, end)
            self._take(Step.PART_OF_SERVICE_ID)
        return None

    def _complete(self, data: bytes, end: int) -> HandshakeRequest:
        """Judge the service id `data[2:end]` and keep what is behind it."""
        try:
            request = _request(data[_HEADER:end])
        except InvalidNameError as error:
            self._reject(Step.NOT_A_SERVICE_ID, str(error)[:256], error)
        self._state = _REQUESTED
        self._buffer = b""
        self._trailing = data[end:]
        return request

    def _take(self, step: Step) -> None:
        self._state = SERVER[self._state][step]

    def _reject(self, step: Step, message: str, cause: Exception | None = None) -> Never:
        # The shortcut comes here from AWAITING_VERSION, so the outcome is written down rather than looked up.
        self._state = State.REJECTED
        self._buffer = b""
        raise RemoteProtocolError(message, code=REJECTIONS[step]) from cause


@lru_cache(maxsize=1024)
def _request(service_id: bytes) -> HandshakeRequest:
    """The request for a service id as it came; a value, so the connections that ask for the same service share it."""
    # Latin-1 takes every byte, and no byte beyond ASCII is part of a DNS label.
    return HandshakeRequest(ServiceId.parse(service_id.decode("latin-1")))
