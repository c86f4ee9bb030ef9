"""The client handshake, version 2, as two state tables. Everything that decides a transition is in this file.

The bytes are in `protocol/handshake-v2.md`. Bytes are turned into *steps*, and the tables say which step is allowed in which
state and what comes next. A step that a state does not list cannot come from a peer: it is a call that our own code may not
make, a `LocalProtocolError`. What a peer can do wrong is listed, and leads to a state that says so.

What is judged, and when:

1. The version byte as soon as it is there; the length when both its bytes are there. They decide how much is kept.
2. The body (service id and fields) once, when all of it is there, never earlier: no parser per byte, and the verdict depends
   on the bytes, never on how they were split.
3. End-of-file before the request is complete is a malformed request, also at the very first byte: the agent always replies.
4. Bytes behind the request are the application's. No table sees them, except on a lease, where there must be none.

Answering. A refusal is allowed in every state before `OK`, because a deadline, a drain or a bug can end the handshake at any
moment; repeating one is harmless. `OK` is allowed in `REQUESTED` only. After an `OK` that hands over a descriptor the
connection is a lease: the agent may send notices on it, and the client nothing.

This module must not know which side runs it, and must not parse bytes: `server`, `client` and `lease` do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meshless_core import ReplyCode

__all__ = ["CLIENT", "REJECTIONS", "SERVER", "State", "Step"]


class State(enum.Enum):
    """Where a handshake stands."""

    # Members are singletons, so identity is a sound hash; the one of `Enum` is a Python call, twice per connection.
    __hash__ = object.__hash__

    AWAITING_VERSION = "awaiting version"
    AWAITING_LENGTH = "awaiting length"
    AWAITING_BODY = "awaiting body"
    AWAITING_VERSION_1_CODE = "awaiting version 1 code"
    AWAITING_HEADER = "awaiting header"
    AWAITING_FIELDS = "awaiting fields"
    AWAITING_DESCRIPTOR = "awaiting descriptor"
    REQUESTED = "requested"
    REJECTED = "rejected"
    ESTABLISHED = "established"
    REFUSED = "refused"
    BROKEN = "broken"
    LEASED = "leased"
    REVOKED = "revoked"
    ENDED = "ended"
    VIOLATED = "violated"
    RELEASED = "released"


class Step(enum.Enum):
    """What can happen to a handshake."""

    __hash__ = object.__hash__  # see State

    VERSION_2 = "version byte 2"
    VERSION_1 = "version byte 1"
    OTHER_VERSION = "another version byte"
    LENGTH = "length in bounds"
    LENGTH_OUT_OF_BOUNDS = "length out of bounds"
    PART_OF_BODY = "part of the body"
    BODY = "a complete body"
    MALFORMED_BODY = "a complete body with a mistake"
    CODE_OK = "code 0"
    CODE_OK_DESCRIPTOR = "code 0, a descriptor follows"
    CODE_REFUSAL = "another code"
    DESCRIPTOR = "the byte 0 with one descriptor"
    NO_DESCRIPTOR = "another byte, or not one descriptor"
    NOTICE_DRAIN = "drain notice"
    NOTICE_REVOKED = "revoked notice"
    NOTICE_UNKNOWN = "notice of an unknown kind"
    NOTICE_MALFORMED = "notice out of bounds"
    UNEXPECTED_BYTE = "a byte on the lease"
    END_OF_FILE = "end of file"


_S = State
_T = Step

# The agent's side. Codes and notices are what we send, everything else is read from the client.
SERVER: Final[Mapping[State, Mapping[Step, State]]] = MappingProxyType(
    {
        _S.AWAITING_VERSION: {
            _T.VERSION_2: _S.AWAITING_LENGTH,
            _T.OTHER_VERSION: _S.REJECTED,
            _T.END_OF_FILE: _S.REJECTED,
            _T.CODE_REFUSAL: _S.REFUSED,
        },
        _S.AWAITING_LENGTH: {
            _T.LENGTH: _S.AWAITING_BODY,
            _T.LENGTH_OUT_OF_BOUNDS: _S.REJECTED,
            _T.END_OF_FILE: _S.REJECTED,
            _T.CODE_REFUSAL: _S.REFUSED,
        },
        _S.AWAITING_BODY: {
            _T.PART_OF_BODY: _S.AWAITING_BODY,
            _T.BODY: _S.REQUESTED,
            _T.MALFORMED_BODY: _S.REJECTED,
            _T.END_OF_FILE: _S.REJECTED,
            _T.CODE_REFUSAL: _S.REFUSED,
        },
        _S.REQUESTED: {_T.CODE_OK: _S.ESTABLISHED, _T.CODE_OK_DESCRIPTOR: _S.LEASED, _T.CODE_REFUSAL: _S.REFUSED},
        _S.REJECTED: {_T.CODE_REFUSAL: _S.REFUSED},
        _S.REFUSED: {_T.CODE_REFUSAL: _S.REFUSED},
        _S.ESTABLISHED: {},
        _S.LEASED: {
            _T.NOTICE_DRAIN: _S.LEASED,
            _T.NOTICE_REVOKED: _S.REVOKED,
            _T.END_OF_FILE: _S.ENDED,
            _T.UNEXPECTED_BYTE: _S.VIOLATED,
        },
        _S.REVOKED: {
            _T.NOTICE_DRAIN: _S.REVOKED,
            _T.NOTICE_REVOKED: _S.REVOKED,
            _T.END_OF_FILE: _S.ENDED,
            _T.UNEXPECTED_BYTE: _S.VIOLATED,
        },
        _S.ENDED: {},
        # the client broke the rules of the lease: it is told so, then the agent closes
        _S.VIOLATED: {_T.NOTICE_REVOKED: _S.VIOLATED},
    }
)

# The client's side. All steps are read from the agent: the request goes out whole before the first of them.
CLIENT: Final[Mapping[State, Mapping[Step, State]]] = MappingProxyType(
    {
        _S.AWAITING_VERSION: {
            _T.VERSION_2: _S.AWAITING_HEADER,
            _T.VERSION_1: _S.AWAITING_VERSION_1_CODE,
            _T.OTHER_VERSION: _S.BROKEN,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.AWAITING_VERSION_1_CODE: {
            _T.CODE_OK: _S.BROKEN,
            _T.CODE_REFUSAL: _S.REFUSED,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.AWAITING_HEADER: {
            _T.LENGTH: _S.AWAITING_FIELDS,
            _T.LENGTH_OUT_OF_BOUNDS: _S.BROKEN,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.AWAITING_FIELDS: {
            _T.CODE_OK: _S.ESTABLISHED,
            _T.CODE_OK_DESCRIPTOR: _S.AWAITING_DESCRIPTOR,
            _T.CODE_REFUSAL: _S.REFUSED,
            _T.MALFORMED_BODY: _S.BROKEN,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.AWAITING_DESCRIPTOR: {
            _T.DESCRIPTOR: _S.LEASED,
            _T.NO_DESCRIPTOR: _S.BROKEN,
            _T.END_OF_FILE: _S.BROKEN,
        },
        _S.ESTABLISHED: {},
        _S.REFUSED: {},
        _S.BROKEN: {},
        _S.LEASED: {
            _T.NOTICE_DRAIN: _S.LEASED,
            _T.NOTICE_UNKNOWN: _S.LEASED,
            _T.NOTICE_REVOKED: _S.REVOKED,
            _T.NOTICE_MALFORMED: _S.BROKEN,
            _T.END_OF_FILE: _S.RELEASED,
        },
        _S.REVOKED: {},
        _S.RELEASED: {},
    }
)

# The code that answers a step which leads to REJECTED.
REJECTIONS: Final[Mapping[Step, ReplyCode]] = MappingProxyType(
    {
        _T.OTHER_VERSION: ReplyCode.UNSUPPORTED_VERSION,
        _T.LENGTH_OUT_OF_BOUNDS: ReplyCode.MALFORMED_REQUEST,
        _T.MALFORMED_BODY: ReplyCode.MALFORMED_REQUEST,
        _T.END_OF_FILE: ReplyCode.MALFORMED_REQUEST,
    }
)
