"""A secure session between two agents: opens, relays one connection at a time, and is used again after a clean end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Literal

from meshless_core.hookspecs import SecureStream
from meshless_core.relay.interface import Relay, RelayResult
from meshless_core.relay.reactor import Reactor
from meshless_core.tunnel.preface import OpenReply, OpenRequest

SessionState = Literal["idle", "opening", "relaying", "dead"]


class FramedSession:
    """Owns a secure stream for its whole life. One connection at a time."""

    def __init__(
        self,
        reactor: Reactor,
        stream: SecureStream,
        *,
        role: Literal["client", "server"],
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        raise NotImplementedError

    stream: SecureStream
    on_lost: Callable[[str], None] | None
    state: SessionState

    def open(self, request: OpenRequest, on_reply: Callable[[OpenReply | Exception], None]) -> None:
        """Client role, idle: ask for a connection. `on_reply` is called exactly once unless `close` comes first."""
        raise NotImplementedError

    def serve(self, on_open: Callable[[OpenRequest], None]) -> None:
        """Server role: from now on call `on_open` for each request; answer it with `reply`."""
        raise NotImplementedError

    def reply(self, reply: OpenReply) -> None:
        """Server role, opening: answer. After OK call `relay`; after a refusal the session is idle again."""
        raise NotImplementedError

    def relay(
        self,
        plain: socket.socket,
        *,
        early: bytes = b"",
        idle_timeout: float | None,
        on_close: Callable[[RelayResult, bool], None],
    ) -> Relay:
        """Relay between `plain` and the tunnel; owns `plain`. `on_close(result, reusable)`."""
        raise NotImplementedError

    def abort(self, reason: str) -> None:
        """Tell the peer with a RESET frame as far as possible without waiting, then close."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the stream at once; idempotent. `on_lost` is not called."""
        raise NotImplementedError
