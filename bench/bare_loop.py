"""`python -m bench.bare_loop LISTEN SERVER`: the least a relay in Python can be, as a yardstick for what one can reach.

It accepts on one Unix socket, reads a request of the client handshake (version 1), says yes to everybody, connects to the other
socket and moves bytes. No service is looked up, nobody is asked, nothing is chosen, counted or logged: what it takes is the
kernel's and the interpreter's. It is measured as the path `python-floor`, and used for nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys

_REQUEST_BYTES = 4096
_OK = b"\x01\x00"


class _End:
    """One socket of a pair: what it sent goes to `other`, what waits for it is in `unsent`."""

    __slots__ = ("ended", "other", "sock", "told", "unsent")

    other: _End

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unsent = b""
        self.ended = False  # its end-of-file was read
        self.told = False  # it was told the other's


class _Loop:
    def __init__(self, listener: socket.socket, server: str) -> None:
        self._listener = listener
        self._server = server
        self._epoll = select.epoll()
        self._ends: dict[int, _End] = {}
        self._waiting: dict[int, socket.socket] = {}
        self._fresh: set[int] = set()
        self._buffer = memoryview(bytearray(1 << 18))

    def run(self) -> None:
        at = self._listener.fileno()
        self._epoll.register(at, select.EPOLLIN)
        while True:
            self._fresh.clear()  # numbers given out again within a batch: what was fetched for them is not theirs
            for fd, events in self._epoll.poll(-1, 128):
                if fd == at:
                    self._accept()
                elif fd in self._waiting:
                    self._begin(self._waiting.pop(fd), registered=True)
                elif fd not in self._fresh and (end := self._ends.get(fd)) is not None:
                    try:
                        self._move(end, events)
                    except OSError:
                        self._close(end)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                client, _address = self._listener.accept()
                client.setblocking(False)
                self._begin(client, registered=False)

    def _begin(self, client: socket.socket, *, registered: bool) -> None:
        fd = client.fileno()
        try:
            data = client.recv(_REQUEST_BYTES)
        except BlockingIOError:
            self._waiting[fd] = client
            self._fresh.add(fd)
            self._epoll.register(fd, select.EPOLLIN)
            return
        if not data:  # somebody who only looks whether we accept
            client.close()
            return
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        server.connect(self._server)
        client.send(_OK)
        near, far = _End(client), _End(server)
        near.other, far.other = far, near
        if early := data[2 + data[1] :]:
            server.send(early)
        if not registered:
            self._epoll.register(fd, select.EPOLLIN)
        self._epoll.register(server.fileno(), select.EPOLLIN)
        self._ends[fd], self._ends[server.fileno()] = near, far
        self._fresh.update((fd, server.fileno()))

    def _move(self, end: _End, events: int) -> None:
        other = end.other
        if end.unsent and events & select.EPOLLOUT:
            end.unsent = end.unsent[end.sock.send(end.unsent) :]
            self._watch(end, other)
        if events & ~select.EPOLLOUT and not end.ended and not other.unsent:
            size = end.sock.recv_into(self._buffer)
            try:
                sent = other.sock.send(self._buffer[:size]) if size else 0
            except BlockingIOError:
                sent = 0
            if sent < size:
                other.unsent = bytes(self._buffer[sent:size])
                self._watch(end, other)
            elif not size:
                end.ended = True
                self._watch(end, other)
        for one in (end, other):
            if one.other.ended and not one.unsent and not one.told:
                one.told = True
                one.sock.shutdown(socket.SHUT_WR)
        if end.told and other.told:
            self._close(end)

    def _watch(self, *ends: _End) -> None:
        for end in ends:
            wanted = 0 if end.ended or end.other.unsent else select.EPOLLIN
            self._epoll.modify(end.sock.fileno(), wanted | (select.EPOLLOUT if end.unsent else 0))

    def _close(self, end: _End) -> None:
        for one in (end, end.other):
            self._ends.pop(one.sock.fileno(), None)
            one.sock.close()


def main() -> None:
    """Serve until killed."""
    where, server = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        os.chmod(where, 0o666)
        listener.listen(4096)
        listener.setblocking(False)
        _Loop(listener, server).run()


if __name__ == "__main__":
    main()
