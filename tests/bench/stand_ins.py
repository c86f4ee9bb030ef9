"""Far ends that do what no proxy should do, or speak the handshake's other side, for the tests only."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(path: Path, talk: Talk) -> Iterator[str]:
    """Serve every connection at `path` with `talk` on a thread of its own; gives the address, and ends them all at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)
    open_connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            talk(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_connections.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"unix:{path}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        listener.close()
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionResetError("ended early")
        received += piece
    return received


def echo(connection: socket.socket) -> None:
    while piece := connection.recv(65536):
        connection.sendall(piece)


def handshake(service: str, code: int, then: Talk, seen: list[bytes]) -> Talk:
    """The agent's side of handshake version 1: notes the request, replies with `code` byte by byte, goes on if it is 0."""

    def talk(connection: socket.socket) -> None:
        seen.append(receive_exactly(connection, 2 + len(service)))
        connection.sendall(b"\x01")
        connection.sendall(bytes([code]))
        if code == 0:
            then(connection)

    return talk


def flipping(to: Path, at: int) -> Talk:
    """A proxy to `to` that changes the byte at offset `at` of what the client sends."""

    def talk(connection: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as onward:
            onward.connect(str(to))
            back = threading.Thread(target=_copy, args=(onward, connection, None))
            back.start()
            _copy(connection, onward, at)
            back.join()

    return talk


def _copy(source: socket.socket, sink: socket.socket, flip_at: int | None) -> None:
    offset = 0
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            if flip_at is not None and offset <= flip_at < offset + len(piece):
                changed = bytearray(piece)
                changed[flip_at - offset] ^= 1
                piece = bytes(changed)
            offset += len(piece)
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def handing_over(request: bytes, piece: int, seen: list[bytes]) -> Talk:
    """The agent's side of handshake version 2 that hands over a socket to an echo, its reply in pieces of `piece` bytes."""

    def talk(connection: socket.socket) -> None:
        seen.append(receive_exactly(connection, len(request)))
        reply = b"\x02\x00\x00\x16" + b"\x11\x00\x10" + bytes(16) + b"\x96\x00\x00"
        for at in range(0, len(reply), piece):
            connection.sendall(reply[at : at + piece])
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(connection, [b"\x00"], [theirs.fileno()])
            echo(ours)
        assert connection.recv(1) == b"", "the lease ends with the connection, and nothing came on it"

    return talk


def relaying(request: bytes, reply: bytes = b"\x02\x00\x00\x00") -> Talk:
    """An agent that gives the same answer to everybody who asks for a hand-off, and no descriptor."""

    def talk(connection: socket.socket) -> None:
        receive_exactly(connection, len(request))
        connection.sendall(reply)
        echo(connection)

    return talk
