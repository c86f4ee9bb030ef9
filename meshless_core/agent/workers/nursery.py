"""Where workers are born: a process that loaded everything, has no thread and no event loop, and therefore may fork.

    supervisor --- asks --->  nursery  --- forks --->  worker 0 .. n-1

Forking after the imports lets all workers share the pages of code and modules; forking from a process that runs an event loop
or a thread would copy half of their state, so the supervisor does not do it itself, and a worker that died can be replaced at
any time. The lives hang together: the nursery ends when the supervisor is gone (its connection ends), and the kernel kills
the workers when the nursery is gone. So whatever happens to the supervisor, no worker is left behind.

Workers stay in the process group but do not take its signals: SIGTERM of a whole group would otherwise reach them twice, once
from the group and once from the supervisor. Only the supervisor tells them to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn

import attrs

__all__ = ["Birth", "Nursery", "open_nursery"]

_PR_SET_PDEATHSIG: Final = 1
_MAX_BYTES: Final = 4096
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

OnStarted = Callable[[int, int], None]
"""Told index and process id."""

OnEnded = Callable[[int, int, int], None]
"""Told index, process id, and exit code; minus the signal's number if a signal ended it."""


@attrs.frozen
class Birth:
    """What a new worker gets from `open_nursery`.

    Attributes:
        index: which worker it is, from 0.
        control: its connection to the supervisor.
    """

    index: int
    control: socket.socket


class Nursery:
    """The supervisor's end.

    Args:
        connection: to the nursery's process.
        pid: the nursery's process id.
    """

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection
        self._pid = pid
        self._loop: asyncio.AbstractEventLoop | None = None

    def follow(self, on_started: OnStarted, on_ended: OnEnded, on_lost: Callable[[], None]) -> None:
        """Hear in the running loop what becomes of workers, and once if the nursery itself is gone."""
        self._loop = asyncio.get_running_loop()
        self._connection.setblocking(False)
        self._loop.add_reader(self._connection, self._on_readable, on_started, on_ended, on_lost)

    def order(self, index: int, control: socket.socket) -> None:
        """Ask for a worker; `control` is its end of a socket pair, and is copied.

        Raises:
            OSError: the nursery is gone.
        """
        socket.send_fds(self._connection, [json.dumps({"index": index}).encode()], [control.fileno()])

    def close(self) -> None:
        """End the nursery, and with it every worker that still lives; returns when it is gone."""
        if self._loop is not None:
            self._loop.remove_reader(self._connection)
            self._loop = None
        self._connection.close()
        with contextlib.suppress(ChildProcessError):  # reaped before
            os.waitpid(self._pid, 0)

    def _on_readable(self, on_started: OnStarted, on_ended: OnEnded, on_lost: Callable[[], None]) -> None:
        try:
            packet = self._connection.recv(_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            assert self._loop is not None
            self._loop.remove_reader(self._connection)
            on_lost()
            return
        news = json.loads(packet)
        if "code" in news:
            on_ended(news["index"], news["pid"], news["code"])
        else:
            on_started(news["index"], news["pid"])


def open_nursery() -> Nursery | Birth:
    """Fork the nursery. Returns in this process, and again in every worker that is ever born.

    Call it in a process without threads and event loop, when everything is imported and nothing is open that a worker must not
    have. A worker leaves by returning up its stack as any process does.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.collect()
    gc.freeze()  # a collection in a worker must not touch, and so copy, the pages all share
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return Nursery(ours, pid)
    ours.close()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _end_with(supervisor)
    return _tend(theirs)


def _tend(connection: socket.socket) -> Birth:
    """Fork on request and report what becomes of the children; leaves the process when the supervisor is gone."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}  # pidfd -> index, pid
    try:
        while True:
            for descriptor, _events in poller.poll():
                if descriptor != connection.fileno():
                    poller.unregister(descriptor)
                    index, pid = children.pop(descriptor)
                    os.close(descriptor)
                    status = os.waitpid(pid, 0)[1]
                    _tell(connection, index=index, pid=pid, code=os.waitstatus_to_exitcode(status))
                    continue
                packet, descriptors, _flags, _ = socket.recv_fds(connection, _MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
                if not packet:
                    _leave()
                index = json.loads(packet)["index"]
                control = socket.socket(fileno=descriptors[0])
                nursery = os.getpid()
                try:
                    pid = os.fork()
                except OSError as error:
                    control.close()
                    _say(f"cannot start worker {index}: {error.strerror}; raise the limit of processes")
                    _tell(connection, index=index, pid=0, code=os.EX_OSERR)
                    continue
                if not pid:
                    _end_with(nursery)
                    connection.close()
                    for other in children:
                        os.close(other)
                    return Birth(index, control)
                control.close()
                pidfd = os.pidfd_open(pid)
                children[pidfd] = (index, pid)
                poller.register(pidfd, select.POLLIN)
                _tell(connection, index=index, pid=pid)
    except OSError as error:
        # the supervisor has gone between two steps, or there is no descriptor left: whoever started the agent starts it again
        _say(f"the nursery of the agent's workers ends: {error.strerror}")
        _leave(1)


def _say(text: str) -> None:
    os.write(2, f"error: {text}\n".encode())  # not through logging: its locks and buffers are those of another process


def _tell(connection: socket.socket, **news: int) -> None:
    connection.send(json.dumps(news).encode())


def _leave(code: int = 0) -> NoReturn:
    os._exit(code)  # no clean-up: what is open here belongs to the supervisor


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent is gone, also if it is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _leave()
