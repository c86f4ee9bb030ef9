"""What every relay engine promises, whatever it moves bytes between.

Why a page of its own: the agent decides *that* bytes move and is told *how it ended*; it must not care which engine does it.
This module does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

import attrs

__all__ = ["MAX_REASON_CHARS", "EndedBy", "OnClose", "Outcome", "Relay", "RelayResult"]

MAX_REASON_CHARS: Final = 256
"""A reason is cut at this many characters: part of it may come from the peer."""

Outcome = Literal["closed", "reset", "idle_timeout", "aborted", "error"]
"""`closed`: both directions ended with an end-of-file and everything was delivered. `reset`: one end broke off.
`idle_timeout`: no data for too long. `aborted`: `Relay.abort` was called. `error`: a protocol violation, or a bug of ours."""

EndedBy = Literal["client", "service", "agent", "tunnel"]
"""Which side ended it: for `closed` the side whose end-of-file came first, for `reset` the side that broke off. `tunnel`: none
of them, the session with the other agent was lost without a word."""


@attrs.frozen
class RelayResult:
    """How a connection ended.

    Attributes:
        outcome: see `Outcome`.
        reason: for people and logs; at most 256 characters, empty for `closed`.
        ended_by: see `EndedBy`. In a tunnel the far end counts as the side behind it: on the client's agent as `service`.
        bytes_to_service: payload bytes handed to the kernel or the tunnel towards the service.
        bytes_to_client: payload bytes handed to the kernel or the tunnel towards the client.
    """

    outcome: Outcome
    reason: str
    ended_by: EndedBy
    bytes_to_service: int
    bytes_to_client: int


OnClose = Callable[[RelayResult], None]


class Relay(Protocol):
    """One connection being relayed. All calls belong to the reactor's thread."""

    @property
    def bytes_to_service(self) -> int:
        """Payload bytes moved towards the service so far; live."""
        ...

    @property
    def bytes_to_client(self) -> int:
        """Payload bytes moved towards the client so far; live."""
        ...

    @property
    def last_activity(self) -> float:
        """When bytes last moved in either direction, in seconds of `time.monotonic()`."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it is over (`on_close` was called)."""
        ...

    def abort(self, reason: str) -> None:
        """Cut the connection now: both ends see a reset as far as the kernel lets us. Does nothing if it is over already.

        Args:
            reason: for the log and the `RelayResult`; cut at 256 characters.
        """
        ...
