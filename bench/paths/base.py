"""What a path is: how to set it up, where to send load, whose CPU and memory it costs."""

from __future__ import annotations

import contextlib
import enum
import pathlib
from collections.abc import Callable
from typing import Protocol

import attrs

from bench.load_program import Load
from bench.processes import Process, pinned, wait_until_accepting

__all__ = ["Group", "Path", "Route", "Stage"]


class Group(enum.Enum):
    """Paths that do the same job; ratios are taken within a group."""

    DIRECT = "direct"
    SAME_NODE = "same node"
    HANDED_OVER = "same node, handed over"
    CROSS_NODE = "cross node, mutual TLS 1.3"


@attrs.frozen
class Route:
    """A path that stands.

    `roots` are the processes between client and server, whose descendants count with them. `parts` names
    those whose memory is told apart. `options` are what the load generator needs to know besides.
    """

    to: str
    service: str | None
    roots: tuple[int, ...]
    parts: dict[str, int]
    options: tuple[str, ...] = ()


@attrs.frozen
class Stage:
    """What a path gets to build itself with. All it starts ends with `stack`."""

    folder: pathlib.Path
    load: Load
    stack: contextlib.ExitStack
    install: bool
    say: Callable[[str], None]
    ends_on: frozenset[int] | None = None
    proxies_on: frozenset[int] | None = None

    def start_proxy(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> Process:
        """Start a process that stands between client and server."""
        with pinned(self.proxies_on):
            return self.stack.enter_context(Process(name, command, self.folder / f"{name}.log", environment))

    def start_server(self, *addresses: str) -> Process:
        """Start the far end and wait until it accepts."""
        with pinned(self.ends_on):
            log = self.folder / "server.log"
            server = self.stack.enter_context(Process("load serve", self.load.serve_command(*addresses), log))
        for address in addresses:
            wait_until_accepting(address, server)
        return server


class Path(Protocol):
    """One way from client to server. Setting it up starts everything it needs, the far end included."""

    @property
    def name(self) -> str:
        """Its short name, unique, as `--only` takes it."""

    @property
    def group(self) -> Group:
        """The job it does."""

    @property
    def describes(self) -> str:
        """What it is, for the legend: one line."""

    @property
    def in_quick(self) -> bool:
        """Whether `--quick` measures it too."""

    def start(self, stage: Stage) -> Route:
        """Set it up and return when it carries connections.

        Raises:
            PathUnavailableError: it cannot be set up here; the message says what to do.
        """
