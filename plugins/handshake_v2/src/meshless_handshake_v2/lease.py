"""The client's side of a lease: notices of the agent about a connection that no longer passes through it.

This module must not do I/O: the caller owns both sockets and does what a notice asks for.
"""

from __future__ import annotations

import attrs

from meshless_core import LocalProtocolError
from meshless_handshake_v2.states import CLIENT, State, Step
from meshless_handshake_v2.wire import MAX_BODY_BYTES, NOTICE_KINDS

__all__ = ["ClientLease", "Notice"]

_HEADER_BYTES = 3
_KINDS = {number: kind for kind, number in NOTICE_KINDS.items()}
_STEPS = {"drain": Step.NOTICE_DRAIN, "revoked": Step.NOTICE_REVOKED}


@attrs.frozen
class Notice:
    """What the agent says about a handed-over connection.

    Attributes:
        kind: "drain": finish what was begun, then close. "revoked": shut the service socket down now, close both.
        text: why, for people; from the peer, so escape it before it is shown.
    """

    kind: str
    text: str


class ClientLease:
    """Reads notices. Starts behind the byte that brought the descriptor; holds at most 4098 bytes of an incomplete notice."""

    __slots__ = ("_buffer", "_error", "_state")

    def __init__(self) -> None:
        self._state = State.LEASED
        self._buffer = b""
        self._error = ""

    @property
    def state(self) -> State:
        """Where the lease stands: leased, revoked, released (the agent is gone, the connection is not) or broken."""
        return self._state

    @property
    def error(self) -> str:
        """What the agent did wrong, for a lease that is broken: treat it as `revoked`."""
        return self._error

    def receive_data(self, data: bytes) -> list[Notice]:
        """Feed bytes as they arrive.

        Args:
            data: what was read from the agent; b"" means end-of-file. After `revoked`, or a mistake of the agent, everything is
                ignored.

        Returns:
            The notices that are complete now, in order, unknown kinds left out. A notice out of bounds is told by `error`.

        Raises:
            LocalProtocolError: called again after end-of-file.
        """
        notices: list[Notice] = []
        if self._state in {State.REVOKED, State.BROKEN}:
            return notices
        if self._state is State.RELEASED:
            raise LocalProtocolError(f"cannot receive data on a lease that is {self._state.value}")
        if not data:
            self._take(Step.END_OF_FILE)
            return notices
        buffer = self._buffer + data
        at = 0
        while self._state is State.LEASED and len(buffer) - at >= _HEADER_BYTES:
            start = at + _HEADER_BYTES
            size = buffer[at + 1] << 8 | buffer[at + 2]
            if size > MAX_BODY_BYTES:
                self._take(Step.NOTICE_MALFORMED)
                self._error = f"the agent sent a notice of size {size}, more than {MAX_BODY_BYTES}"
                break
            if len(buffer) < start + size:
                break
            kind = _KINDS.get(buffer[at])
            at = start + size
            self._take(_STEPS[kind] if kind is not None else Step.NOTICE_UNKNOWN)
            if kind is not None:
                notices.append(Notice(kind, buffer[start:at].decode("utf-8", "replace")))
        self._buffer = buffer[at:] if self._state is State.LEASED else b""
        return notices

    def _take(self, step: Step) -> None:
        self._state = CLIENT[self._state][step]
