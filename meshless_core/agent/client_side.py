"""The listeners of this node's pods: accepts clients and hands each to its own `ClientIntake`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
from typing import Final

from meshless_core.agent.admission import Admission
from meshless_core.agent.client_intake import ClientIntake
from meshless_core.agent.outbound import OutboundTunnels
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.socketd import LISTEN_BACKLOG, PodSockets
from meshless_core.types import ReplyCode

__all__ = ["ClientSide"]

logger = logging.getLogger(__name__)

_ACCEPTS_PER_WAKE: Final = 64
_PAUSE_SECONDS: Final = 0.1
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ClientSide:
    """The listeners of all local pods."""

    def __init__(self, runtime: AgentRuntime, admission: Admission, tunnels: OutboundTunnels) -> None:
        self.runtime = runtime
        self.admission = admission
        self.tunnels = tunnels
        self._listeners: dict[str, _PodListener] = {}
        self._waiting: dict[str, PodSockets] = {}
        self._open = False
        self._stopped = False

    @property
    def accepting(self) -> int:
        """Pods whose connects are accepted now."""
        return len(self._listeners)

    def add(self, pod: PodSockets) -> None:
        """Accept connections of a pod, as soon as `open` was called; after `stop` its connects wait for the next agent."""
        if self._stopped:
            return
        if self._open:
            self._listeners[pod.placement.uid] = _PodListener(self, pod)
        else:
            self._waiting[pod.placement.uid] = pod

    def open(self) -> None:
        """Begin to accept. Until then connects wait in the backlogs: an agent that just started would only refuse them."""
        self._open = True
        for pod in self._waiting.values():
            self.add(pod)
        self._waiting.clear()

    def remove(self, uid: str) -> None:
        """Stop accepting connections of a pod that is gone, or whose sockets were replaced."""
        self._waiting.pop(uid, None)
        listener = self._listeners.pop(uid, None)
        if listener is not None:
            listener.take_waiting()
            listener.stop()

    def stop(self) -> None:
        """Stop accepting everywhere, for good; connects wait in the listeners' backlogs for the next agent."""
        self._stopped = True
        for listener in self._listeners.values():
            listener.stop()
        self._listeners.clear()
        self._waiting.clear()


class _PodListener:
    """Accepts for one pod, and bounds how many of its requests may be incomplete."""

    def __init__(self, side: ClientSide, pod: PodSockets) -> None:
        self.runtime = side.runtime
        self.admission = side.admission
        self.tunnels = side.tunnels
        self.pod = pod
        self.handshaking = 0
        self._listening = True
        self._pause: asyncio.TimerHandle | None = None
        # workers of one node take turns: who takes one only leaves the next to whoever is quicker (ADR-0100)
        self._accepts = _ACCEPTS_PER_WAKE if self.runtime.workers == 1 else 1
        side.runtime.reactor.add(pod.listener.fileno(), select.EPOLLIN, self._on_ready)

    def take_waiting(self) -> None:
        """Accept who has connected already: with the listener's last descriptor its backlog would be reset.

        No more than fit into a backlog: a pod that has kept a way to its former socket may connect faster than we accept.
        """
        waiting = select.poll()
        waiting.register(self.pod.listener, select.POLLIN)
        for _ in range(0, LISTEN_BACKLOG + 1, self._accepts):
            if not self._listening or self._pause is not None or not waiting.poll(0):
                return
            self._on_ready(0)

    def stop(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        elif self._listening:
            self.runtime.reactor.remove(self.pod.listener.fileno())
        self._listening = False

    def _on_ready(self, _events: int) -> None:
        # not accept(): that resolves three enums in Python for each connection, which costs as much as the system call
        accept = self.pod.listener._accept  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        for _ in range(self._accepts):
            if not self._listening:
                return
            try:
                descriptor, _address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._pause_accepting(error)
                    return
                continue
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
            client.setblocking(False)
            try:
                ClientIntake(self, client).begin()
            except Exception:
                # a bug of ours costs this client its connection, not the pod its listener
                logger.exception("a client of pod %s could not be served", self.pod.placement.pod)
                with contextlib.suppress(OSError):
                    client.send(bytes((1, ReplyCode.INTERNAL_ERROR)))
                client.close()

    def _pause_accepting(self, error: OSError) -> None:
        """Without descriptors a level-triggered listener would spin: look away for a moment, clients wait in the backlog."""
        logger.error("cannot accept for pod %s: %s; raise the limit of open files", self.pod.placement.pod, error.strerror)
        self.runtime.reactor.remove(self.pod.listener.fileno())
        self._pause = self.runtime.loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.runtime.reactor.add(self.pod.listener.fileno(), select.EPOLLIN, self._on_ready)
