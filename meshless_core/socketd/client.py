"""The agent's end: receives listeners and folders of its pods, and follows changes.

If socketd goes away the agent keeps the descriptors it has and serves on; it reconnects with backoff and takes the next
snapshot as the whole truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.socketd import protocol
from meshless_core.socketd.readiness import readable
from meshless_core.socketd.task_end import end_task

__all__ = ["PodSockets", "SocketdClient"]

logger = logging.getLogger(__name__)

_Inode = tuple[int, int]  # device and number; ours cannot be given to another file while we hold it open

_FIRST_RETRY: Final = 0.05  # seconds
_LAST_RETRY: Final = 2.0  # seconds


@attrs.frozen(eq=False)
class PodSockets:
    """What the agent owns of one pod.

    Attributes:
        placement: who the pod is; the listener proves it.
        listener: the pod's client socket, listening, non-blocking.
        server_folder: O_PATH descriptor of the folder with the application's sockets.
    """

    placement: PodPlacement
    listener: socket.socket
    server_folder: int

    def close(self) -> None:
        """Close both descriptors; socketd's copies stay."""
        self.listener.close()
        with contextlib.suppress(OSError):
            os.close(self.server_folder)


class SocketdClient:
    """Keeps the agent's set of pods equal to socketd's.

    Args:
        node: name of this node.
        path: socketd's control socket.
        on_added: called with a pod that is new; the callee owns it from then on.
        on_removed: called with the uid of a pod that is gone; the callee closes what it owns.
    """

    def __init__(
        self,
        node: str,
        path: Path,
        *,
        on_added: Callable[[PodSockets], None],
        on_removed: Callable[[str], None],
    ) -> None:
        self._node = node
        self._path = path
        self._on_added = on_added
        self._on_removed = on_removed
        self._known: dict[str, tuple[PodPlacement, _Inode, _Inode]] = {}
        self._task: asyncio.Task[None] | None = None
        self._complete = asyncio.Event()
        self.connected = False

    async def start(self) -> None:
        """Begin to follow socketd; returns at once."""
        self._task = asyncio.create_task(self._run(), name="socketd-client")

    async def wait_snapshot(self) -> None:
        """Return once the first complete snapshot was taken over."""
        await self._complete.wait()

    async def stop(self) -> None:
        """Stop following; what was handed over stays the callee's."""
        if self._task is not None:
            await end_task(self._task)

    async def _run(self) -> None:
        delay = _FIRST_RETRY
        said = ""
        while True:
            try:
                await self._follow()
            except (OSError, SocketDirectoryError) as error:
                reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                if self.connected:
                    delay, said = _FIRST_RETRY, ""
                if reason != said:  # once, and not for every attempt: an agent may wait long for its socketd
                    said = reason
                    logger.warning(
                        "cannot follow socketd at %s: %s; keeping %d pods and trying again; is socketd running?",
                        *(self._path, reason, len(self._known)),
                    )
            self.connected = False
            await asyncio.sleep(random.uniform(0, delay))  # noqa: S311 - jitter, not a secret
            delay = min(delay * 2, _LAST_RETRY)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            folder = os.open(self._path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{self._path.name}")
            finally:
                os.close(folder)
            await loop.sock_sendall(connection, protocol.encode(protocol.Hello(protocol.PROTOCOL_VERSION, self._node)))
            self.connected = True
            resent: set[str] | None = set()
            while True:
                await readable(connection)
                received = _receive(connection)
                if received is None:
                    continue
                packet, descriptors = received
                if not packet:
                    raise SocketDirectoryError("connection closed")
                resent = self._apply(packet, descriptors, resent)
                message = protocol.decode(packet)
                uid = message.placement.uid if isinstance(message, protocol.PodAdded) else getattr(message, "uid", "")
                await loop.sock_sendall(connection, protocol.encode(protocol.Ack(uid)))
        finally:
            connection.close()

    def _apply(self, packet: bytes, descriptors: list[int], resent: set[str] | None) -> set[str] | None:
        try:
            message = protocol.decode(packet)
            if isinstance(message, protocol.PodAdded) and len(descriptors) != 2:
                raise SocketDirectoryError(f"pod {message.placement.pod} came with {len(descriptors)} descriptors, not 2")
        except SocketDirectoryError:
            _close_all(descriptors)
            raise
        match message:
            case protocol.PodAdded(placement):
                if resent is not None:
                    resent.add(placement.uid)
                known = (placement, _inode(descriptors[0]), _inode(descriptors[1]))
                if self._known.get(placement.uid) == known:
                    _close_all(descriptors)  # the same pod after a reconnect: our copies are still good
                else:
                    if placement.uid in self._known:
                        self._on_removed(placement.uid)  # another pod, or other sockets: socketd itself was started again
                    self._known[placement.uid] = known
                    listener = socket.socket(fileno=descriptors[0])
                    listener.setblocking(False)
                    self._on_added(PodSockets(placement, listener, descriptors[1]))
            case protocol.PodRemoved(uid):
                if self._known.pop(uid, None) is not None:
                    self._on_removed(uid)
            case protocol.SnapshotSent():
                if resent is not None:
                    for uid in [uid for uid in self._known if uid not in resent]:
                        del self._known[uid]
                        self._on_removed(uid)
                self._complete.set()
                logger.info("socketd at %s has %d pods for this agent", self._path, len(self._known))
                return None
            case _:
                raise SocketDirectoryError(f"socketd protocol: unexpected {type(message).__name__}")
        return resent


def _receive(connection: socket.socket) -> tuple[bytes, list[int]] | None:
    try:
        packet, descriptors, flags, _ = socket.recv_fds(connection, protocol.MAX_MESSAGE_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        _close_all(descriptors)
        raise SocketDirectoryError(f"a message was cut off ({os.strerror(errno.EMSGSIZE)}): raise the limit of open files")
    return packet, list(descriptors)


def _inode(descriptor: int) -> _Inode:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
