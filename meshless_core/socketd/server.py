"""Hands parked listeners to the agents, one control socket per node.

The control socket is mode 0600 and the peer's uid is checked (SO_PEERCRED), because whoever holds a listener can pretend to be
the mesh to that pod. The newest agent wins: a second connection of the same node replaces the first, which is how an agent is
replaced without a gap.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.socket_file import remove_socket_file
from meshless_core.socketd import protocol
from meshless_core.socketd.directories import ParkedPod
from meshless_core.socketd.readiness import writable
from meshless_core.socketd.task_end import end_task
from meshless_core.types import MeshletRef, PodRef

__all__ = ["PodParking", "SocketdServer"]

logger = logging.getLogger(__name__)

_ACCEPT_PAUSE_SECONDS: Final = 0.1
_HELLO_SECONDS: Final = 5.0


class PodParking(Protocol):
    """Where parked pods come from: `PodDirectories` makes them, an agent with several workers duplicates its own."""

    def create(self, placement: PodPlacement) -> ParkedPod:
        """See `PodDirectories.create`."""

    def remove(self, parked: ParkedPod) -> None:
        """See `PodDirectories.remove`."""


class SocketdServer:
    """socketd for one node.

    Args:
        node: the node's name; an agent that says another one is refused.
        directories: where the pods' folders are.
        control_path: path of the control socket; whatever another process left or still has there is replaced.
        agent_uids: users that may connect, besides our own.
    """

    def __init__(
        self, node: str, directories: PodParking, control_path: Path, *, agent_uids: frozenset[int] = frozenset()
    ) -> None:
        self._node = node
        self._directories = directories
        self._control_path = control_path
        self._uids = agent_uids | {os.getuid()}
        self._pods: dict[str, ParkedPod] = {}
        self._complete = False  # until the pods are known an agent is told nothing: it would drop those it has
        self._listener: socket.socket | None = None
        self._control: os.stat_result | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._outbox: asyncio.Queue[protocol.Message] | None = None
        self._acked: set[str] = set()
        self._ack_event = asyncio.Event()

    @property
    def pods(self) -> dict[PodRef, str]:
        """The pods parked now, with their uids."""
        return {parked.placement.pod: uid for uid, parked in self._pods.items()}

    @property
    def meshlets(self) -> frozenset[MeshletRef]:
        """The meshlets of the pods parked now."""
        return frozenset(parked.placement.meshlet for parked in self._pods.values() if parked.placement.meshlet is not None)

    @property
    def served(self) -> frozenset[str]:
        """Uids of the pods whose listeners the present agent has acknowledged."""
        return frozenset(self._acked & self._pods.keys())

    async def start(self) -> None:
        """Listen for the agent.

        Raises:
            SocketDirectoryError: the control socket cannot be bound.
        """
        try:
            self._control_path.parent.mkdir(parents=True, exist_ok=True)
            self._control_path.unlink(missing_ok=True)
            self._listener = self._listen()
        except OSError as error:
            raise SocketDirectoryError(
                f"cannot listen on socketd's control socket {self._control_path}: {error.strerror or error}"
            ) from error
        self._accepting = asyncio.create_task(self._accept(), name=f"socketd-{self._node}")

    async def stop(self, *, remove: bool = True) -> None:
        """Stop serving; with `remove`, delete the pods' folders too."""
        if self._accepting is not None:
            await end_task(self._accepting)
        if self._serving is not None:
            await end_task(self._serving)
        if self._listener is not None:
            if self._control is not None:
                remove_socket_file(self._control_path, self._control)  # the next one may listen there by now
            self._listener.close()
        for parked in self._pods.values():
            if remove:
                self._directories.remove(parked)
            else:
                parked.close()
        self._pods.clear()

    def set_pods(self, placements: Iterable[PodPlacement], renewed: Collection[str] = ()) -> None:
        """Make the parked pods these; existing ones are not touched. A changed uid or meshlet means another pod.

        A pod whose folder cannot be made is logged and left out; the others are served.

        Args:
            placements: all pods there are.
            renewed: uids of pods that have other sockets than before. The agent is told in one message: a pod that was gone
                for a moment would cost its leaf, and who connects to it in that moment a connection.
        """
        wanted = {placement.uid: placement for placement in placements}
        for uid in [uid for uid, parked in self._pods.items() if wanted.get(uid) != parked.placement]:
            self._directories.remove(self._pods.pop(uid))
            self._acked.discard(uid)
            self._send(protocol.PodRemoved(uid))
        for uid, placement in wanted.items():
            before = self._pods.get(uid)
            if before is not None and uid not in renewed:
                continue
            if before is not None:
                self._directories.remove(self._pods.pop(uid))
                self._acked.discard(uid)
            try:
                self._pods[uid] = self._directories.create(placement)
            except SocketDirectoryError as error:
                logger.error("pod %s gets no sockets: %s", placement.pod, error)
                if before is not None:
                    self._send(protocol.PodRemoved(uid))
                continue
            self._send(protocol.PodAdded(placement))
        if not self._complete:
            self._complete = True
            self._send(protocol.SnapshotSent())

    async def wait_served(self) -> None:
        """Return once the present agent has acknowledged every parked pod."""
        while not self._pods.keys() <= self._acked:
            self._ack_event.clear()
            await self._ack_event.wait()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            folder = os.open(self._control_path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                path = f"/proc/self/fd/{folder}/{self._control_path.name}"
                listener.bind(path)
                os.chmod(path, 0o600)
                for uid in self._uids - {os.getuid()}:
                    os.chown(path, uid, -1)
                listener.listen(8)
                self._control = os.stat(path, follow_symlinks=False)
            finally:
                os.close(folder)
        except OSError:
            listener.close()
            raise
        return listener

    def _send(self, message: protocol.Message) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    async def _accept(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                logger.error("socketd %s cannot accept its agent: %s; trying again", self._node, error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)  # out of descriptors: the agent waits in the backlog
                continue
            try:
                await self._greet(connection)
                if self._serving is not None:
                    await end_task(self._serving)
            except (OSError, SocketDirectoryError, TimeoutError) as error:
                logger.warning("socketd %s: agent connection refused: %s", self._node, error or "it says nothing")
                connection.close()
                continue
            except BaseException:
                connection.close()
                raise
            self._acked.clear()
            self._outbox = asyncio.Queue()
            for parked in self._pods.values():
                self._outbox.put_nowait(protocol.PodAdded(parked.placement))
            if self._complete:
                self._outbox.put_nowait(protocol.SnapshotSent())
            self._serving = asyncio.create_task(self._serve(connection, self._outbox), name=f"socketd-{self._node}-agent")
            self._serving.add_done_callback(partial(_close, connection))

    async def _greet(self, connection: socket.socket) -> None:
        """Find out whether this is our agent.

        Raises:
            SocketDirectoryError: it is not.
            TimeoutError: it does not say so.
            OSError: it broke off.
        """
        _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in self._uids:
            raise SocketDirectoryError(f"uid {uid} on {self._control_path} is not the agent's user")
        loop = asyncio.get_running_loop()
        packet = await asyncio.wait_for(loop.sock_recv(connection, protocol.MAX_MESSAGE_BYTES), _HELLO_SECONDS)
        hello = protocol.decode(packet) if packet else None
        if not isinstance(hello, protocol.Hello):
            raise SocketDirectoryError("the first message was not hello")
        if (hello.version, hello.node) != (protocol.PROTOCOL_VERSION, self._node):
            raise SocketDirectoryError(
                f"agent of node {hello.node!r} with protocol {hello.version} connected; "
                f"this socketd serves node {self._node!r} with protocol {protocol.PROTOCOL_VERSION}"
            )

    async def _serve(self, connection: socket.socket, outbox: asyncio.Queue[protocol.Message]) -> None:
        """Tell an agent everything until it, or we, go; the connection is closed by who started this."""
        reader = asyncio.create_task(self._read_acks(connection), name=f"socketd-{self._node}-acks")
        getter: asyncio.Task[protocol.Message] | None = None
        try:
            while not reader.done():
                getter = asyncio.create_task(outbox.get())
                await asyncio.wait({getter, reader}, return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    break
                await self._send_message(connection, getter.result())
        except OSError as error:
            logger.info("socketd %s: agent connection ended: %s", self._node, error)
        finally:
            if getter is not None:
                getter.cancel()
            if self._outbox is outbox:
                self._outbox = None
            await end_task(reader)

    async def _send_message(self, connection: socket.socket, message: protocol.Message) -> None:
        while True:
            descriptors: list[int] = []
            if isinstance(message, protocol.PodAdded):
                parked = self._pods.get(message.placement.uid)
                if parked is None:
                    return  # removed meanwhile; its removal is behind it in the queue
                descriptors = [parked.listener.fileno(), parked.server_folder]
            try:
                socket.send_fds(connection, [protocol.encode(message)], descriptors)
            except BlockingIOError:
                await writable(connection)
            else:
                return

    async def _read_acks(self, connection: socket.socket) -> None:
        """Note what the agent has taken over; returns when it is gone, or says anything else."""
        loop = asyncio.get_running_loop()
        try:
            while packet := await loop.sock_recv(connection, protocol.MAX_MESSAGE_BYTES):
                message = protocol.decode(packet)
                if not isinstance(message, protocol.Ack):
                    raise SocketDirectoryError(f"socketd protocol: an agent may only acknowledge, not {type(message).__name__}")
                if message.uid:
                    self._acked.add(message.uid)
                self._ack_event.set()
        except (OSError, SocketDirectoryError) as error:
            logger.info("socketd %s: agent connection ended: %s", self._node, error)


def _close(connection: socket.socket, _task: asyncio.Task[None]) -> None:
    """Whatever ended the task, also before its first step."""
    connection.close()
