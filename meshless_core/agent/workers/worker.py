"""One worker as the supervisor sees it: a process that comes and goes, at a place that stays."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Final

import attrs

from meshless_core.agent.admin_request import admin_get
from meshless_core.agent.workers.place import READY
from meshless_core.socketd import SocketdServer

__all__ = ["Worker"]

_FIRST_RESTART: Final = 0.05  # seconds
_LAST_RESTART: Final = 10.0  # seconds
_STABLE_SECONDS: Final = 10.0
_MAX_BYTES: Final = 64


@attrs.define(eq=False)
class Worker:
    """A worker's place.

    Attributes:
        index: which worker, from 0.
        directory: its state folder.
        pods: hands it the pods' sockets; their control socket stays when the worker's process is replaced.
        control: connection to the present process, None if there is none.
        pid: its process id, None until it runs.
        started: whether the present process has started up and serves.
        restarts: how many processes before this one have died.
        born: time of the loop at which the present process was asked for, in seconds.
    """

    index: int
    directory: Path
    pods: SocketdServer
    control: socket.socket | None = None
    pid: int | None = None
    started: bool = False
    restarts: int = 0
    born: float = 0.0
    _delay: float = _FIRST_RESTART

    @property
    def alive(self) -> bool:
        """Whether a process was asked for that has not ended."""
        return self.control is not None

    def begin(self) -> socket.socket:
        """Make its control connection; returns the worker's end, for the caller to pass on and close."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.control, self.born, self.started = ours, loop.time(), False
        loop.add_reader(ours, self._on_readable)
        return theirs

    def tell(self, order: bytes) -> None:
        """Send an order; one that is just dying needs none."""
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.send(order)

    def ended(self) -> None:
        """The process is gone."""
        control, self.control, self.pid, self.started = self.control, None, None, False
        if control is not None:
            asyncio.get_running_loop().remove_reader(control)
            control.close()

    def next_delay(self) -> float:
        """Seconds to wait before the next process; longer each time while they die young."""
        if asyncio.get_running_loop().time() - self.born >= _STABLE_SECONDS:
            self._delay = _FIRST_RESTART
        delay, self._delay = self._delay, min(self._delay * 2, _LAST_RESTART)
        return delay

    def not_ready(self) -> str:
        """Why it cannot serve yet, as far as the supervisor can tell; empty if it seems fine."""
        if not self.alive and not self.restarts:
            return f"worker {self.index}: is not started yet"
        if not self.alive:
            return f"worker {self.index}: has ended and is being replaced; see the agent's log"
        if not self.started:
            return f"worker {self.index}: is starting"
        if not set(self.pods.pods.values()) <= self.pods.served:
            return f"worker {self.index}: has not taken over all pods' sockets yet"
        return ""

    async def get(self, target: str) -> tuple[int, bytes]:
        """Ask its admin endpoint. Raises as `admin_get` does."""
        return await admin_get(f"unix:{self.directory / 'admin.sock'}", target)

    def _on_readable(self) -> None:
        assert self.control is not None
        try:
            news = self.control.recv(_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            news = b""
        if news == READY:
            self.started = True
        elif not news:
            asyncio.get_running_loop().remove_reader(self.control)  # the nursery tells how it ended
