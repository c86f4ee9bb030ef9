"""No proxy at all: what the sockets themselves can do."""

from __future__ import annotations

import attrs

from bench.paths.base import Group, Route, Stage
from bench.processes import free_port

__all__ = ["DirectPath"]


@attrs.frozen
class DirectPath:
    """Client and server on one socket."""

    name: str
    tcp: bool
    group: Group = Group.DIRECT
    in_quick: bool = True

    @property
    def describes(self) -> str:
        """One line for the legend."""
        return "no proxy, TCP over loopback" if self.tcp else "no proxy, a Unix socket"

    def start(self, stage: Stage) -> Route:
        """Start the server."""
        to = f"tcp:127.0.0.1:{free_port()}" if self.tcp else f"unix:{stage.folder}/server"
        stage.start_server(to)
        return Route(to, None, (), {})
