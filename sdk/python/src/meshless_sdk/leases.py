"""Leases of handed-over connections, and the one thread that watches them.

A connection that was handed over does not pass through the agent; the connection to the agent stays open as its lease. The
agent counts it, and says on it what the relay would have done: `drain`, or `revoked`. A process has one daemon thread for all
leases, begun with the first. A child process does not watch its parent's leases: the parent does, and shutting down a socket
shuts it down for all who hold it.

This module must not decide what a dial is; `meshless_sdk.dialler` does.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import sys
import threading
import weakref
from collections.abc import Callable

from meshless_sdk.wire_v2 import Notices

__all__ = ["Lease"]

_READ_BYTES = 4096
_LOOK_FOR_DETACHED = 1.0
"""Seconds between two looks whether a detached descriptor is still open; nobody tells when it is closed."""


class Lease:
    """The connection to the agent that stands for a handed-over one. Any thread may call.

    Attributes:
        revoked: whether the agent took the permission back; the sockets have been shut down.
        draining: whether the agent asked to finish soon, or is gone: it does not count the connection any more.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_detached",
        "_holders",
        "_lock",
        "_notices",
        "_on_drain",
        "draining",
        "revoked",
    )

    def __init__(self, connection: socket.socket, on_drain: Callable[[str], object] | None = None) -> None:
        """Take over `connection`, right behind the byte that brought the descriptor, and watch it.

        Args:
            connection: to the agent.
            on_drain: called with the agent's text, in the watching thread; what it raises goes to `threading.excepthook`.
        """
        self._connection = connection
        self._holders: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._detached: list[_Detached] = []
        self._lock = threading.RLock()  # a signal handler may close what is just being closed
        self._notices = Notices()
        self._on_drain = on_drain
        self.revoked = False
        self.draining = False
        connection.setblocking(False)
        _watch().add(connection.fileno(), self)

    def hold(self, holder: socket.socket) -> None:
        """Count a socket as a holder: the lease lives as long as it does."""
        with self._lock:
            self._holders.add(holder)

    def release(self, holder: socket.socket, close: Callable[[], object]) -> None:
        """Close a holder by calling `close`, and the lease with the last one."""
        with self._lock:  # so that a notice cannot meet the number of the descriptor in its next life
            close()
            self._holders.discard(holder)
        self._end_if_unused()

    def detach(self, holder: socket.socket, detach: Callable[[], int]) -> int:
        """Turn a holder into a bare descriptor by calling `detach`; the lease lives while this process has that open."""
        with self._lock:
            descriptor = detach()
            self._holders.discard(holder)
            if self._connection.fileno() >= 0:
                self._detached.append(_Detached(descriptor))
                _watch().look_for(self)
        return descriptor

    def look_for_detached(self) -> bool:
        """Whether a detached descriptor is still open; ends the lease if nothing is."""
        with self._lock:
            self._detached = [one for one in self._detached if one.is_open()]
            still = bool(self._detached)
        self._end_if_unused()
        return still

    def receive_notices(self) -> None:
        """Read what the agent says. Called by the watching thread when there is something."""
        with self._lock:
            if self._connection.fileno() < 0:
                return
            try:
                data = self._connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # reset: the agent died, like end-of-file
            notices = self._notices.receive_data(data)
            if self._notices.end in ("revoked", "protocol_error"):
                self.revoked = True
                self._shut_down()
            elif self._notices.end != "open":
                self.draining = True
            if self._notices.end != "open":
                self._close()
        for kind, text in notices:
            if kind == "drain":
                self.draining = True
                if self._on_drain is not None:
                    self._on_drain(text)

    def forget_parent(self) -> None:
        """In a child process: whoever held the lock is not here."""
        self._lock = threading.RLock()

    def _shut_down(self) -> None:
        for holder in list(self._holders):
            with contextlib.suppress(OSError):  # the peer may have gone meanwhile
                holder.shutdown(socket.SHUT_RDWR)
        for one in self._detached:
            one.shut_down()

    def _end_if_unused(self) -> None:
        with self._lock:
            if not self._holders and not self._detached:
                self._close()

    def _close(self) -> None:
        descriptor = self._connection.fileno()
        if descriptor >= 0:
            if _watcher is not None:
                _watcher.remove(descriptor)
            self._connection.close()


class _Detached:
    """A descriptor that left its socket object: found again by its inode, also under another number (dup, ssl)."""

    __slots__ = ("_descriptor", "_inode")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._inode = _inode_of(descriptor)

    def is_open(self) -> bool:
        if _inode_of(self._descriptor) == self._inode:
            return True
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return True  # no descriptor is left to look with: not known, so look again later
        for name in names:
            if _inode_of(int(name)) == self._inode:
                self._descriptor = int(name)
                return True
        return False

    def shut_down(self) -> None:
        try:
            mine = os.dup(self._descriptor)
        except OSError:
            return  # closed meanwhile
        try:
            if _inode_of(mine) == self._inode:  # asked of the duplicate, whose number nobody else can close
                with socket.socket(fileno=os.dup(mine)) as alias, contextlib.suppress(OSError):
                    alias.shutdown(socket.SHUT_RDWR)
        finally:
            os.close(mine)


def _inode_of(descriptor: int) -> tuple[int, int]:
    """Device and number: files of other file systems have the same numbers."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return (-1, -1)
    return found.st_dev, found.st_ino


class _Watcher:
    """Waits for notices on all leases of this process."""

    def __init__(self) -> None:
        if _thread.start_new_thread.__module__ != "_thread":
            raise RuntimeError("threads are replaced by green ones here, and one that waits would stop them all")
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._leases: dict[int, weakref.ref[Lease]] = {}
        self._looking_for: set[Lease] = set()
        self._thread = threading.Thread(target=self._run, name="meshless-leases", daemon=True)
        self._thread.start()

    def add(self, descriptor: int, lease: Lease) -> None:
        self._leases[descriptor] = weakref.ref(lease)
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)

    def remove(self, descriptor: int) -> None:
        # not there in a child process, whose leases its parent watches
        if self._leases.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def look_for(self, lease: Lease) -> None:
        self._looking_for.add(lease)
        os.eventfd_write(self._bell, 1)

    def abandon(self) -> None:
        """In a child process: close this process's copies; what is registered stays, it is the parent's."""
        self._epoll.close()
        os.close(self._bell)
        for lease in (*self._looking_for, *(reference() for reference in self._leases.values())):
            if lease is not None:
                lease.forget_parent()

    def _run(self) -> None:
        while True:
            ready = self._epoll.poll(_LOOK_FOR_DETACHED if self._looking_for else None)
            for descriptor, _ in ready:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                self._let_read(descriptor)
            for lease in list(self._looking_for):
                if not lease.look_for_detached():
                    self._looking_for.discard(lease)

    def _let_read(self, descriptor: int) -> None:
        reference = self._leases.get(descriptor)
        lease = reference() if reference is not None else None
        if lease is None:
            self._leases.pop(descriptor, None)  # collected unclosed, and its descriptor with it
            return
        try:
            lease.receive_notices()
        except Exception:  # noqa: BLE001 - the application's callback; the other leases still need this thread
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))


_watcher: _Watcher | None = None
_beginning = threading.Lock()


def _watch() -> _Watcher:
    global _watcher
    if _watcher is None:
        with _beginning:
            if _watcher is None:
                _watcher = _Watcher()
    return _watcher


def _begin_again() -> None:
    global _watcher, _beginning
    _beginning = threading.Lock()
    if _watcher is not None:
        _watcher.abandon()
        _watcher = None


os.register_at_fork(after_in_child=_begin_again)
