"""What a worker has to know about being one of several."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

import attrs

from meshless_core.agent.workers.shared_slots import SharedSlots

__all__ = ["DRAIN", "END", "READY", "REOPEN", "WorkerPlace"]

READY: Final = b"ready"  # a worker has started
DRAIN: Final = b"drain"  # finish what there is and leave
END: Final = b"end"  # leave now
REOPEN: Final = b"reopen"  # open the access log again

_MAX_BYTES: Final = 64


@attrs.frozen(eq=False)
class WorkerPlace:
    """One worker's share of the agent.

    Attributes:
        index: which worker, from 0.
        count: how many there are.
        slots: `maxConn` counters of all workers.
        tunnel_listener: the tunnel port's socket, listening; all workers accept from it.
        control: the connection to the supervisor.
    """

    index: int
    count: int
    slots: SharedSlots
    tunnel_listener: socket.socket
    control: socket.socket

    def report_started(self, *, on_drain: Callable[[], None], on_reopen: Callable[[], None]) -> None:
        """Tell the supervisor that this worker serves, and do from now on what it says.

        Args:
            on_drain: finish and leave.
            on_reopen: open the access log again.
        """
        self.control.setblocking(False)
        asyncio.get_running_loop().add_reader(self.control, self._on_readable, on_drain, on_reopen)
        self.control.send(READY)

    def _on_readable(self, on_drain: Callable[[], None], on_reopen: Callable[[], None]) -> None:
        try:
            order = self.control.recv(_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            order = b""
        if order == DRAIN:
            on_drain()
        elif order == REOPEN:
            on_reopen()
        else:
            os._exit(0 if order == END else 1)  # told to, or the supervisor is gone
