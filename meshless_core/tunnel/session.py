"""Which frame is allowed when: the state of one tunnel session, fed with bytes, giving events.

Theory of operation. A session carries one connection after another. Two parties, CLIENT (the agent that opens) and SERVER, each
have a state; a party's frame moves its own state by `STEPS`, and some pairs of states then move on together by `TOGETHER`.
That is all there is:

    IDLE      nothing is going on; the client may OPEN
    OPENING   the client has asked; the server is REPLYING
    TALKING   application bytes
    FINISHED  the party has sent FIN: no more application bytes from it; with GONE it says that it takes none either
    DONE      ... and END: it has delivered all it received, FIN included. Both DONE: both IDLE, the session is used again
    DEAD      RESET was sent or received, or the protocol was violated: nothing more, ever

RESET is allowed in every living state, IDLE too: one that was sent to a connection may cross the REFUSED or END that ended it.
END is not allowed before the other party's FIN: it says that this FIN was delivered. Without it a client could reuse a session
whose server has not yet delivered the last connection's bytes, and could not be told if that failed.

This module does no I/O and reads no clock.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, Literal

from meshless_core.errors import LocalProtocolError
from meshless_core.tunnel.frames import (
    HEADER_BYTES,
    IGNORABLE,
    MAX_CONTROL_BYTES,
    MAX_DATA_BYTES,
    Event,
    FrameType,
    ResetCode,
    decode_control,
    encode_end,
    encode_fin,
    encode_gone,
    encode_open,
    encode_reply,
    encode_reset,
    violation,
)
from meshless_core.tunnel.preface import OpenReply, OpenRequest
from meshless_core.types import ReplyCode

__all__ = ["STEPS", "TOGETHER", "State", "TunnelSession"]


class State(enum.Enum):
    """Of one party."""

    IDLE = "idle"
    OPENING = "opening"
    REPLYING = "replying"
    REFUSED = "refused"
    TALKING = "talking"
    FINISHED = "finished"
    DONE = "done"
    DEAD = "dead"


_TALK: Final = {
    State.TALKING: {FrameType.DATA: State.TALKING, FrameType.FIN: State.FINISHED, FrameType.RESET: State.DEAD},
    State.FINISHED: {FrameType.GONE: State.FINISHED, FrameType.END: State.DONE, FrameType.RESET: State.DEAD},
    State.DONE: {FrameType.RESET: State.DEAD},
    State.REFUSED: {},
    State.DEAD: {},
}

STEPS: Final[dict[str, dict[State, dict[FrameType, State]]]] = {
    "client": {
        State.IDLE: {FrameType.OPEN: State.OPENING, FrameType.RESET: State.DEAD},
        State.OPENING: {FrameType.RESET: State.DEAD},
        State.REPLYING: {},
        **_TALK,
    },
    "server": {
        State.IDLE: {FrameType.RESET: State.DEAD},
        State.OPENING: {},
        State.REPLYING: {
            FrameType.OPENED: State.TALKING,
            FrameType.REFUSED: State.REFUSED,
            FrameType.RESET: State.DEAD,
        },
        **_TALK,
    },
}
"""Role of the sender, its state, its frame: its next state. What is not listed is not allowed."""

TOGETHER: Final[dict[tuple[State, State], tuple[State, State]]] = {
    (State.OPENING, State.IDLE): (State.OPENING, State.REPLYING),
    (State.OPENING, State.TALKING): (State.TALKING, State.TALKING),
    (State.OPENING, State.REFUSED): (State.IDLE, State.IDLE),
    (State.DONE, State.DONE): (State.IDLE, State.IDLE),
}
"""(client, server) after a step: what both become."""

_DATA: Final = int(FrameType.DATA)
_DATA_WORD: Final = _DATA << 24
_KINDS: Final = {int(kind): kind for kind in FrameType}
_PACK_HEADER: Final = struct.Struct(">I").pack_into

Role = Literal["client", "server"]


class TunnelSession:
    """State and codec of one side of a session.

    Attributes:
        role: which party this side is.
    """

    __slots__ = ("_partial", "_payload_left", "_skip_left", "_states", "_talking", "role")

    def __init__(self, role: Role) -> None:
        """Start idle.

        Args:
            role: "client" for the side that opens, "server" for the side that is asked.
        """
        self.role: Role = role
        self._states: dict[str, State] = {"client": State.IDLE, "server": State.IDLE}
        self._talking = False  # the peer may send DATA: one attribute instead of two look-ups per frame
        self._partial = bytearray()  # an incomplete frame header or control frame
        self._payload_left = 0  # payload bytes of the present DATA frame still to come
        self._skip_left = 0  # bytes of an unknown, ignorable frame still to come

    @property
    def peer(self) -> Role:
        """The other party."""
        return "server" if self.role == "client" else "client"

    @property
    def local_state(self) -> State:
        """State of this side."""
        return self._states[self.role]

    @property
    def peer_state(self) -> State:
        """State of the other side."""
        return self._states[self.peer]

    @property
    def idle(self) -> bool:
        """Whether the session can carry the next connection: both sides idle, no frame half received."""
        return (
            self.local_state is State.IDLE
            and self.peer_state is State.IDLE
            and not (self._partial or self._payload_left or self._skip_left)
        )

    # --- sending: bytes to put on the stream -----------------------------------------------------------------------------

    def open(self, request: OpenRequest) -> bytes:
        """OPEN: client, idle."""
        data = encode_open(request)
        self._sent(FrameType.OPEN)
        return data

    def reply(self, reply: OpenReply) -> bytes:
        """OPENED or REFUSED: server, asked."""
        data = encode_reply(reply)
        self._sent(FrameType.OPENED if reply.code is ReplyCode.OK else FrameType.REFUSED)
        return data

    def frame_data(self, buffer: memoryview, size: int, at: int = 0) -> int:
        """Write the header of a DATA frame in front of its payload, which is in `buffer` already: no copy.

        Args:
            buffer: payload at `at + HEADER_BYTES`.
            size: bytes of payload, 1 to `MAX_DATA_BYTES`.
            at: where in `buffer` the header goes.

        Returns:
            Bytes of the whole frame.

        Raises:
            LocalProtocolError: no application bytes may be sent now, or `size` is out of range.
        """
        if self._states[self.role] is not State.TALKING or not 0 < size <= MAX_DATA_BYTES:
            raise LocalProtocolError(f"{self.role} cannot send {size} bytes of DATA while {self.local_state.value}")
        _PACK_HEADER(buffer, at, _DATA_WORD | size)
        return size + HEADER_BYTES

    def fin(self) -> bytes:
        """FIN: the plain end sent end-of-file."""
        self._sent(FrameType.FIN)
        return encode_fin()

    def gone(self) -> bytes:
        """GONE: the plain end takes nothing either. Allowed between FIN and END."""
        self._sent(FrameType.GONE)
        return encode_gone()

    def end(self) -> bytes:
        """END: everything is delivered. Allowed after FIN was sent and received."""
        self._sent(FrameType.END)
        return encode_end()

    def reset(self, code: ResetCode, reason: str) -> bytes:
        """RESET: throw the session away. Empty if it is dead already."""
        if FrameType.RESET not in STEPS[self.role][self.local_state]:
            self._die()
            return b""
        self._sent(FrameType.RESET)
        return encode_reset(code, reason)

    # --- receiving -----------------------------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> list[Event]:
        """Take bytes as they arrive; what they mean, in order.

        Args:
            data: a view of any size. Payload of DATA is returned as slices of it, not copied.

        Raises:
            RemoteProtocolError: the peer violated the protocol; the session is dead.
        """
        try:
            return self._receive(data)
        except Exception:
            self._die()
            raise

    def _receive(self, data: memoryview) -> list[Event]:
        events: list[Event] = []
        size = len(data)
        at = 0
        while at < size:
            if self._payload_left:
                end = min(size, at + self._payload_left)
                events.append(data[at:end])
                self._payload_left -= end - at
                at = end
            elif data[at] == _DATA and not self._partial and not self._skip_left and at + HEADER_BYTES <= size:
                self._payload_left = self._begin_data(data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3])
                at += HEADER_BYTES
            elif self._skip_left:
                skipped = min(self._skip_left, size - at)
                self._skip_left -= skipped
                at += skipped
            else:
                at = self._receive_control(data, at, events)
        return events

    def _begin_data(self, length: int) -> int:
        if not self._talking:
            raise violation(f"{self.peer} sent DATA while {self.peer_state.value}")
        if not 0 < length <= MAX_DATA_BYTES:
            raise violation(f"DATA frame of {length} bytes, 1 to {MAX_DATA_BYTES} are allowed")
        return length

    def _receive_control(self, data: memoryview, at: int, events: list[Event]) -> int:
        """Collect a header or a control frame that may come in pieces; returns how far `data` is used."""
        partial = self._partial
        if len(partial) < HEADER_BYTES:
            used = min(HEADER_BYTES - len(partial), len(data) - at)
            partial += data[at : at + used]
            at += used
            if len(partial) < HEADER_BYTES:
                self._check_kind(partial[0])
                return at
        kind = self._check_kind(partial[0])
        length = int.from_bytes(partial[1:HEADER_BYTES], "big")
        if kind is FrameType.DATA:
            self._payload_left = self._begin_data(length)
            partial.clear()
            return at
        if length > MAX_CONTROL_BYTES:
            raise violation(f"frame 0x{partial[0]:02x} of {length} bytes, at most {MAX_CONTROL_BYTES} are allowed")
        if kind is None:
            partial.clear()
            self._skip_left = length
            return at
        used = min(HEADER_BYTES + length - len(partial), len(data) - at)
        partial += data[at : at + used]
        at += used
        if len(partial) == HEADER_BYTES + length:
            payload = bytes(partial[HEADER_BYTES:])
            partial.clear()
            event = decode_control(kind, payload)
            self._received(kind)
            events.append(event)
            if kind is FrameType.RESET:
                return len(data)  # whatever follows is of no interest
        return at

    def _check_kind(self, number: int) -> FrameType | None:
        """The frame's type, None for one that may be ignored; checked on its first byte, before anything is buffered."""
        kind = _KINDS.get(number)
        if kind is None:
            if self._states[self.peer] is State.DEAD or not number & IGNORABLE:
                raise violation(f"unknown frame type 0x{number:02x}")
            return None
        self._next_state(self.peer, kind)
        return kind

    # --- state ---------------------------------------------------------------------------------------------------------

    def _next_state(self, role: Role, kind: FrameType) -> State:
        state = self._states[role]
        following = STEPS[role][state].get(kind)
        other = self._states["server" if role == "client" else "client"]
        if following is None or (kind is FrameType.END and other not in (State.FINISHED, State.DONE)):
            message = f"{role} sent {kind.name} while {state.value}, {'server' if role == 'client' else 'client'} {other.value}"
            raise LocalProtocolError(message) if role == self.role else violation(message)
        return following

    def _step(self, role: Role, kind: FrameType) -> None:
        states = self._states
        states[role] = self._next_state(role, kind)
        if states[role] is State.DEAD:
            self._die()
        pair = (states["client"], states["server"])
        states["client"], states["server"] = TOGETHER.get(pair, pair)
        self._talking = states[self.peer] is State.TALKING

    def _sent(self, kind: FrameType) -> None:
        self._step(self.role, kind)

    def _received(self, kind: FrameType) -> None:
        self._step(self.peer, kind)

    def _die(self) -> None:
        self._states["client"] = self._states["server"] = State.DEAD
        self._talking = False
        self._partial.clear()
        self._payload_left = self._skip_left = 0
