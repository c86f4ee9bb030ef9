"""The client's side of the client handshake, version 1: request bytes out, reply bytes in, an event out.

Used by the command line and by tests; applications use an SDK. This module must not do I/O or read a clock.
"""

from __future__ import annotations

from typing import Final

import attrs

from meshless_core.errors import LocalProtocolError, RemoteProtocolError
from meshless_core.handshake.server import FIRST_BYTE
from meshless_core.handshake.states import CLIENT, State, Step
from meshless_core.types import ReplyCode, ServiceId

__all__ = ["ClientHandshake", "Established", "Refused"]

_REPLY_BYTES: Final = 2
_READING: Final = frozenset(state for state, steps in CLIENT.items() if steps)


@attrs.frozen
class Established:
    """The agent said OK: from here on both directions are the application's bytes."""


@attrs.frozen
class Refused:
    """The agent said no, and closes.

    Attributes:
        code: a `ReplyCode`, or a plain int that this version does not know: a refusal all the same.
    """

    code: int

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

    Send `request` whole, then feed what arrives until an event comes out. To never read an application's byte by
    accident, read at most `wanted` bytes at a time; whoever reads more finds the rest in `trailing_data`.
    """

    __slots__ = ("_request", "_state", "_trailing")

    def __init__(self, service_id: ServiceId) -> None:
        text = str(service_id).encode("ascii")
        self._request = bytes((FIRST_BYTE, len(text))) + text
        self._state = State.AWAITING_VERSION
        self._trailing = b""

    @property
    def state(self) -> State:
        """Where the handshake stands, a key of `meshless_core.handshake.states.CLIENT`."""
        return self._state

    @property
    def request(self) -> bytes:
        """The request, whole. Application bytes may be sent right behind it."""
        return self._request

    @property
    def wanted(self) -> int:
        """Bytes of the reply that are still missing: 2, 1 or 0."""
        return {State.AWAITING_VERSION: _REPLY_BYTES, State.AWAITING_CODE: 1}.get(self._state, 0)

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
            self._take(Step.END_OF_FILE)
            raise RemoteProtocolError("the agent closed the connection without a reply", code=ReplyCode.INTERNAL_ERROR)
        if self._state is State.AWAITING_VERSION:
            if data[0] != FIRST_BYTE:
                self._take(Step.OTHER_VERSION)
                raise RemoteProtocolError(
                    f"the reply has version {data[0]} instead of {FIRST_BYTE}: is this the socket of an agent?",
                    code=ReplyCode.INTERNAL_ERROR,
                )
            self._take(Step.VERSION_1)
            data = data[1:]
            if not data:
                return None
        code = data[0]
        if code == ReplyCode.OK:
            self._take(Step.CODE_OK)
            self._trailing = data[1:]
            return Established()
        self._take(Step.CODE_REFUSAL)
        try:
            return Refused(ReplyCode(code))
        except ValueError:
            return Refused(code)  # a newer agent may know more codes

    def _take(self, step: Step) -> None:
        self._state = CLIENT[self._state][step]
