from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import meshless_sdk
import pytest
from meshless_sdk.serving import Connection, Server

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/proxy-v2.json").read_text("utf-8"))["vectors"]
HEADER = bytes.fromhex("".join(VECTORS[0]["bytes"]))


def echo(connection: Connection) -> None:
    while data := connection.socket.recv(1000):
        connection.socket.sendall(data)


def dial(pod: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    try:
        client.connect(str(pod / "server" / "http"))
    except OSError:
        client.close()
        raise
    return client


class Running:
    """A server whose `serve_forever` runs in a thread."""

    def __init__(self, handler: Callable[[Connection], object], **options: object) -> None:
        self.server = Server(handler, "http", **options)  # type: ignore[arg-type] # passed through
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()


@pytest.fixture
def run(pod: Path) -> Iterator[Callable[..., Server]]:
    begun: list[Running] = []

    def begin(handler: Callable[[Connection], object], **options: object) -> Server:
        begun.append(Running(handler, **options))
        return begun[-1].server

    yield begin
    for one in begun:
        one.server.stop(0)
        one.thread.join(10)
        assert not one.thread.is_alive()


def test_each_connection_has_a_handler_and_an_id_of_its_own(pod: Path, run: Callable[..., Server]) -> None:
    seen: list[Connection] = []

    def handler(connection: Connection) -> None:
        seen.append(connection)
        echo(connection)

    run(handler)
    with dial(pod) as one, dial(pod) as two:
        for client in (one, two):
            client.sendall(b"ping")
            assert client.recv(10) == b"ping"
    assert len({connection.id for connection in seen}) == 2
    assert all(len(connection.id) == 32 and connection.peer is None for connection in seen)


def test_a_proxy_header_says_who_connects_and_is_not_the_applications(pod: Path, run: Callable[..., Server]) -> None:
    seen: list[Connection] = []

    def handler(connection: Connection) -> None:
        seen.append(connection)
        echo(connection)

    run(handler, proxy_protocol=True)
    with dial(pod) as client:
        for byte in HEADER:
            client.sendall(bytes((byte,)))
        client.sendall(b"ping")
        assert client.recv(10) == b"ping"
    (connection,) = seen
    assert connection.id == VECTORS[0]["expect"]["peer"]["connection_id"]
    assert connection.peer is not None
    assert connection.peer._asdict() == VECTORS[0]["expect"]["peer"]


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"", HEADER[:20]], ids=["no header", "nothing", "half a header"])
def test_without_a_complete_header_the_handler_is_never_called(pod: Path, run: Callable[..., Server], said: bytes) -> None:
    called: list[Connection] = []
    run(called.append, proxy_protocol=True, header_timeout=0.05)
    with dial(pod) as client:
        client.sendall(said)
        with contextlib.suppress(ConnectionResetError):  # closed with something of it unread
            assert client.recv(10) == b""
    assert not called


def test_a_failing_handler_ends_its_own_connection_only(
    pod: Path, run: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(connection: Connection) -> None:
        if connection.socket.recv(3) == b"bad":
            raise RuntimeError("oops")
        echo(connection)

    run(fail)
    with dial(pod) as bad, dial(pod) as good:
        bad.sendall(b"bad")
        assert bad.recv(1) == b""
        good.sendall(b"yesping")
        assert good.recv(4) == b"ping"
    assert "the handler failed on connection" in caplog.text


def test_more_than_the_limit_wait_in_the_backlog(pod: Path, run: Callable[..., Server]) -> None:
    server = run(echo, max_connections=1)
    with dial(pod) as one:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        with dial(pod) as two:
            two.sendall(b"y")
            assert server.connections == 1
            one.close()
            assert two.recv(1) == b"y"
    with pytest.raises(meshless_sdk.InvalidArgument, match="max_connections has to be 1 or more"):
        Server(echo, "http", max_connections=0)


def test_stopping_serves_what_had_connected_and_admits_nobody_new(pod: Path) -> None:
    server = Server(echo, "http")
    with dial(pod) as waiting:  # nobody has accepted yet
        waiting.sendall(b"ping")
        waiting.shutdown(socket.SHUT_WR)
        assert server.stop(10) == 0
        assert waiting.recv(10) == b"ping"
    with pytest.raises(FileNotFoundError):
        dial(pod)


def test_stopping_cuts_and_counts_what_takes_longer(pod: Path, run: Callable[..., Server]) -> None:
    server = run(echo)
    with dial(pod) as one, dial(pod) as two:
        for client in (one, two):
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        two.close()
        assert server.stop(0.05) == 1
        assert one.recv(1) == b""
    assert server.stop() == 0


def test_the_service_can_be_served_again_after_a_stop(pod: Path, run: Callable[..., Server]) -> None:
    for _ in range(3):
        server = run(echo)
        with dial(pod) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert server.stop(10) == 0


def test_a_stop_leaves_the_socket_of_a_successor_alone(pod: Path) -> None:
    server = Server(echo, "http")
    os.unlink(pod / "server" / "http")
    with meshless_sdk.listen("http"):
        server.stop(0)
        assert (pod / "server" / "http").exists()


PROGRAM = """
import signal, sys, meshless_sdk

def handler(connection):
    print("serving", flush=True)
    while data := connection.socket.recv(1000):
        connection.socket.sendall(data)

for _ in range(2):
    print("cut", meshless_sdk.serve(handler, "http", grace=float(sys.argv[1])), flush=True)
"""


def test_sigterm_stops_gracefully_and_serving_again_works(pod: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "10"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            client = dial_when_there(pod)
            assert process.stdout.readline() == "serving\n"
            process.send_signal(signal.SIGTERM)
            client.sendall(b"still served")
            assert client.recv(100) == b"still served"
            client.close()
            assert process.stdout.readline() == "cut 0\n"
        assert process.wait(10) == 0


def test_sigterm_cuts_after_the_grace(pod: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "0.05"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with dial_when_there(pod) as client:
            assert process.stdout.readline() == "serving\n"
            process.send_signal(signal.SIGTERM)
            assert client.recv(1) == b""
            assert process.stdout.readline() == "cut 1\n"
        process.kill()


def dial_when_there(pod: Path) -> socket.socket:
    while True:
        try:
            return dial(pod)
        except (FileNotFoundError, ConnectionRefusedError):
            threading.Event().wait(0.01)


def test_a_wrong_service_name_is_refused() -> None:
    with pytest.raises(meshless_sdk.InvalidServiceId):
        meshless_sdk.serve(echo, "not a name")


def test_without_a_free_descriptor_a_connection_waits_and_the_server_lives(pod: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server(echo, "http") as server, dial(pod) as client:
        free = os.dup(0)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            assert not server._accept_one()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "cannot accept a connection now: Too many open files" in caplog.text
        assert server._accept_one()
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_without_a_free_thread_a_connection_is_closed_and_the_server_lives(
    pod: Path, run: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = run(echo)

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", NoThread)
        with dial(pod) as client:
            assert client.recv(1) == b""
    assert server.connections == 0
    assert "can't start new thread" in caplog.text
    with dial(pod) as client:
        client.sendall(b"hello")
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"
