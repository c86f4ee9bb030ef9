"""The least a relay in Python can be: what is between it and `meshless` is what Meshless does, the rest is Python's."""

from __future__ import annotations

import sys

import attrs

from bench.paths.base import Group, Route, Stage
from bench.processes import wait_until_accepting

__all__ = ["PythonFloorPath"]


@attrs.frozen
class PythonFloorPath:
    """`bench.bare_loop`."""

    name: str
    group: Group = Group.SAME_NODE
    in_quick: bool = False

    @property
    def describes(self) -> str:
        """One line for the legend."""
        return "a bare epoll loop in Python that reads the handshake and says yes: no decision, no choice, no log"

    def start(self, stage: Stage) -> Route:
        """Start server and loop."""
        server, entry = f"{stage.folder}/server", f"{stage.folder}/entry"
        stage.start_server(f"unix:{server}")
        loop = stage.start_proxy("python-floor", [sys.executable, "-m", "bench.bare_loop", entry, server])
        wait_until_accepting(f"unix:{entry}", loop)
        return Route(f"unix:{entry}", "any.far.bench", (loop.pid,), {"loop": loop.pid})
