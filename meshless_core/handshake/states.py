"""The client handshake, version 1, as two state tables. Everything that decides a transition is in this file.

The wire (product contract, section 4; `protocol/handshake-v1.md`)::

    request:  version (1 byte, 1) . size (1 byte, 1..255) . service id (`size` bytes, ASCII)
    reply:    version (1 byte, 1) . code (1 byte)

How it works. Bytes are turned into *steps* (a version byte, a size, a complete service id, end-of-file, ...) and the tables
below say which step is allowed in which state, and what comes next. A step that a state does not list cannot come from a peer:
it is a call that our own code may not make, a `LocalProtocolError`. What a peer can do wrong is listed, and leads to
`REJECTED` (the agent's side) or `BROKEN` (the client's side).

What is judged, and when:

1. The version byte and the size byte are judged as soon as each arrives. They decide how everything behind them is read.
2. The service id is judged once, when all `size` bytes are there, never earlier: a reader needs no state per byte of the id,
   and the verdict depends on the bytes, never on how they were split.
3. End-of-file before the request is complete is a malformed request, also at the very first byte: the agent always replies.
4. Bytes behind the request are the application's. No table sees them.

Answering. A refusal is allowed in every state but `ESTABLISHED`, because a deadline, a drain or a bug can end the handshake at
any moment, and the agent always replies; repeating one is harmless. `OK` is allowed in `REQUESTED` only: no slip of the caller
can open a connection that was never requested, or was rejected. After `OK` any reply would land in the application's bytes.

This module must not know which side runs it, and must not parse bytes: `server` and `client` do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meshless_core.types import ReplyCode

__all__ = ["CLIENT", "REJECTIONS", "SERVER", "State", "Step"]


class State(enum.Enum):
    """Where a handshake stands."""

    # Members are singletons, so identity is a sound hash; the one of `Enum` is a Python call, twice per connection.
    __hash__ = object.__hash__

    AWAITING_VERSION = "awaiting version"
    AWAITING_SIZE = "awaiting size"
    AWAITING_SERVICE_ID = "awaiting service id"
    AWAITING_CODE = "awaiting code"
    REQUESTED = "requested"
    REJECTED = "rejected"
    ESTABLISHED = "established"
    REFUSED = "refused"
    BROKEN = "broken"


class Step(enum.Enum):
    """What can happen to a handshake."""

    __hash__ = object.__hash__  # see State

    VERSION_1 = "version byte 1"
    OTHER_VERSION = "another version byte"
    SIZE = "size 1 to 255"
    SIZE_ZERO = "size 0"
    PART_OF_SERVICE_ID = "part of the service id"
    SERVICE_ID = "a complete service id"
    NOT_A_SERVICE_ID = "size bytes that are no service id"
    CODE_OK = "code 0"
    CODE_REFUSAL = "another code"
    END_OF_FILE = "end of file"


_S = State
_T = Step

# The agent's side. Steps up to END_OF_FILE are read from the client; CODE_OK and CODE_REFUSAL are the reply we send.
SERVER: Final[Mapping[State, Mapping[Step, State]]] = MappingProxyType(
    {
        _S.AWAITING_VERSION: {
            _T.VERSION_1: _S.AWAITING_SIZE,
            _T.OTHER_VERSION: _S.REJECTED,
            _T.END_OF_FILE: _S.REJECTED,
            _T.CODE_REFUSAL: _S.REFUSED,
        },
        _S.AWAITING_SIZE: {
            _T.SIZE: _S.AWAITING_SERVICE_ID,
            _T.SIZE_ZERO: _S.REJECTED,
            _T.END_OF_FILE: _S.REJECTED,
            _T.CODE_REFUSAL: _S.REFUSED,
        },
        _S.AWAITING_SERVICE_ID: {
            _T.PART_OF_SERVICE_ID: _S.AWAITING_SERVICE_ID,
            _T.SERVICE_ID: _S.REQUESTED,
            _T.NOT_A_SERVICE_ID: _S.REJECTED,
            _T.END_OF_FILE: _S.REJECTED,
            _T.CODE_REFUSAL: _S.REFUSED,
        },
        _S.REQUESTED: {_T.CODE_OK: _S.ESTABLISHED, _T.CODE_REFUSAL: _S.REFUSED},
        _S.REJECTED: {_T.CODE_REFUSAL: _S.REFUSED},
        _S.REFUSED: {_T.CODE_REFUSAL: _S.REFUSED},
        _S.ESTABLISHED: {},
    }
)

# The client's side. All steps are read from the agent: the request goes out whole before the first of them.
CLIENT: Final[Mapping[State, Mapping[Step, State]]] = MappingProxyType(
    {
        _S.AWAITING_VERSION: {
            _T.VERSION_1: _S.AWAITING_CODE,
            _T.OTHER_VERSION: _S.BROKEN,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.AWAITING_CODE: {
            _T.CODE_OK: _S.ESTABLISHED,
            _T.CODE_REFUSAL: _S.REFUSED,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.ESTABLISHED: {},
        _S.REFUSED: {},
        _S.BROKEN: {},
    }
)

# The code that answers a step which leads to REJECTED.
REJECTIONS: Final[Mapping[Step, ReplyCode]] = MappingProxyType(
    {
        _T.OTHER_VERSION: ReplyCode.UNSUPPORTED_VERSION,
        _T.SIZE_ZERO: ReplyCode.MALFORMED_REQUEST,
        _T.NOT_A_SERVICE_ID: ReplyCode.MALFORMED_REQUEST,
        _T.END_OF_FILE: ReplyCode.MALFORMED_REQUEST,
    }
)
