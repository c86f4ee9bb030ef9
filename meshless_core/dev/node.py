"""One node of a dev mesh: its part of socketd and of the issuer, and the process of its agent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from meshless_core.cli.admin_client import AdminClient
from meshless_core.dev.layout import NodeLayout, RunLayout
from meshless_core.dev.ports import ReservedPort
from meshless_core.dev.processes import ChildProcess
from meshless_core.errors import MeshlessError
from meshless_core.hookspecs import Bus
from meshless_core.identity import IssuerServer, bind_issuer_socket
from meshless_core.socketd import PodDirectories, SocketdServer, follow_manifest

__all__ = ["DevNode"]

logger = logging.getLogger(__name__)

_HOPELESS_RESTARTS = 2


class DevNode:
    """A node. Life: `start`, `stop`.

    Args:
        name: the node's name.
        run: the run directory.
        bus: where the node's manifest comes from.
        issuer: serves leaves to this node's agent.
        directories: makes the pods' folders.
        write: takes lines of the agent's output.
        log_options: options of the `meshless` command that say how the agent logs.
        config_made_from: the file the configuration in force was made from, empty for the defaults.
    """

    def __init__(
        self,
        name: str,
        run: RunLayout,
        bus: Bus,
        issuer: IssuerServer,
        directories: PodDirectories,
        write: Callable[[str], object],
        log_options: Sequence[str],
        config_made_from: str,
    ) -> None:
        self.layout: NodeLayout = run.node(name)
        self._port = ReservedPort()
        self._issuer = issuer
        self.socketd = SocketdServer(name, directories, self.layout.socketd)
        self._bus = bus
        self._following: asyncio.Task[None] | None = None
        self._answered = False
        self.agent = ChildProcess(
            f"agent {name}",
            [
                sys.executable,
                "-m",
                "meshless_core.cli",
                *log_options,
                "agent",
                f"--node={name}",
                f"--config={run.config}",
                *([f"--config-made-from={config_made_from}"] if config_made_from else []),
                f"--socketd={self.layout.socketd}",
                f"--issuer={self.layout.issuer}",
                f"--state-dir={self.layout.state}",
                f"--tunnel-address={self._port.address}",
                f"--admin=unix:{self.layout.admin}",
                f"--access-log={self.layout.access_log}",
                f"--pid-file={self.layout.agent_pid}",
            ],
            env=dict(os.environ),
            write=write,
            grace=2.0,
        )

    @property
    def name(self) -> str:
        """The node's name."""
        return self.layout.name

    @property
    def address(self) -> str:
        """`host:port` of its agent for tunnels."""
        return self._port.address

    async def start(self) -> None:
        """Make its sockets and start its agent.

        Raises:
            MeshlessError: a socket cannot be made.
        """
        self.layout.directory.mkdir(parents=True, mode=0o700)
        await self.socketd.start()
        self._issuer.add_node(self.name, bind_issuer_socket(self.layout.issuer))
        self._following = asyncio.create_task(follow_manifest(self.name, self._bus, self.socketd), name=f"pods of {self.name}")
        self.agent.start()

    async def stop(self) -> None:
        """Stop its agent and remove its sockets."""
        await self.agent.stop()
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._issuer.remove_node(self.name)
        await self.socketd.stop()
        self._port.release()

    async def not_ready(self) -> str:
        """Why connections cannot be made yet, empty when they can.

        Raises:
            MeshlessError: the agent ends again and again without ever having answered.
        """
        try:
            status, body = await AdminClient(f"unix:{self.layout.admin}").get("/readyz")
        except MeshlessError:
            if self.agent.restarts >= _HOPELESS_RESTARTS and not self._answered:
                raise MeshlessError(f"the agent of node {self.name} cannot start: what it said last is shown above") from None
            return f"agent {self.name} does not answer yet"
        self._answered = True
        if status != 200:
            return f"agent {self.name}: {body.decode(errors='replace').strip()}"
        if not self.socketd.pods.keys() or set(self.socketd.pods.values()) <= self.socketd.served:
            return ""
        return f"agent {self.name} has not taken over its pods' sockets yet"
