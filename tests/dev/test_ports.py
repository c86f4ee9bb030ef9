from __future__ import annotations

import contextlib
import errno
import socket

import pytest

from meshless_core.dev.ports import ReservedPort


def _number(port: ReservedPort) -> int:
    return int(port.address.rpartition(":")[2])


def test_a_server_listens_on_it_again_and_again() -> None:
    port = ReservedPort()
    for _ in range(3):
        where = ("127.0.0.1", _number(port))
        with socket.create_server(where) as server, socket.create_connection(where) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    port.release()


def test_nobody_else_gets_it_while_no_server_listens() -> None:
    port = ReservedPort()
    with contextlib.ExitStack() as held:
        for _ in range(200):
            other = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            assert other.getsockname()[1] != _number(port)
        with socket.socket() as thief, pytest.raises(OSError, match="in use") as caught:
            thief.bind(("127.0.0.1", _number(port)))
        assert caught.value.errno == errno.EADDRINUSE
    port.release()
    with socket.socket() as heir:
        heir.bind(("127.0.0.1", _number(port)))
    port.release()
