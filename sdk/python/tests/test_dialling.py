from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import meshless_sdk
import pytest
from meshless_sdk.errors import CODES

SERVICE = "http.cart.shop"
REQUEST = b"\x01\x0ehttp.cart.shop"

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")


def read_request(connection: socket.socket) -> None:
    data = b""
    while len(data) < len(REQUEST):
        data += connection.recv(len(REQUEST) - len(data))
    assert data == REQUEST


def replying(*parts: bytes) -> Callable[[socket.socket], None]:
    def handler(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return handler


def test_the_socket_is_the_connection_to_the_service(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"\x01\x00")
        assert connection.recv(100) == b"ping"
        connection.sendall(b"pong")
        assert connection.recv(100) == b""

    agent.plays(serve)
    with meshless_sdk.connect(SERVICE) as connection:
        connection.sendall(b"ping")
        assert connection.recv(100) == b"pong"


def test_the_socket_is_blocking_without_any_timeout(agent: Any) -> None:
    agent.plays(replying(b"\x01\x00"))
    with meshless_sdk.connect(SERVICE) as connection:
        assert connection.gettimeout() is None
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)


def test_a_server_that_speaks_first_is_heard_from_its_first_byte(agent: Any) -> None:
    agent.plays(replying(b"\x01\x00220 mail\r\n"))
    with meshless_sdk.connect(SERVICE) as connection:
        assert connection.recv(100) == b"220 mail\r\n"


def test_a_reply_may_come_in_pieces(agent: Any) -> None:
    step = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"\x01")
        step.wait(10)
        connection.sendall(b"\x00")

    agent.plays(serve)
    threading.Timer(0.01, step.set).start()
    meshless_sdk.connect(SERVICE).close()


@pytest.mark.parametrize("code", CODES)
def test_each_refusal_is_an_exception_of_its_own(agent: Any, code: int) -> None:
    agent.plays(replying(bytes((1, code))))
    with pytest.raises(CODES[code]) as caught:
        meshless_sdk.connect(SERVICE)
    assert type(caught.value) is CODES[code]
    assert caught.value.service_id == SERVICE


def test_an_unknown_code_is_a_final_refusal(agent: Any) -> None:
    agent.plays(replying(b"\x01\x4d"))
    with pytest.raises(meshless_sdk.UnknownReplyCode, match=r"http\.cart\.shop: UNKNOWN \(77\)") as caught:
        meshless_sdk.connect(SERVICE)
    assert (caught.value.code, caught.value.retryable) == (77, False)


def test_a_refusal_that_came_before_the_request_was_read_is_heard(agent: Any) -> None:
    agent.plays(lambda connection: connection.sendall(b"\x01\x0b"))  # closes with the request unread: a reset for us
    with pytest.raises(meshless_sdk.Overloaded):
        meshless_sdk.connect(SERVICE)


@pytest.mark.parametrize("said", [b"", b"\x01"])
def test_an_agent_that_dies_before_it_replied_is_unavailable(agent: Any, said: bytes) -> None:
    agent.plays(replying(said))
    with pytest.raises(meshless_sdk.AgentUnavailable, match=r"connection to http\.cart\.shop without a reply") as caught:
        meshless_sdk.connect(SERVICE)
    assert caught.value.retryable


def test_an_agent_that_resets_before_it_replied_is_unavailable(agent: Any) -> None:
    agent.plays(lambda connection: None)
    with pytest.raises(meshless_sdk.AgentUnavailable, match="without a reply"):
        meshless_sdk.connect(SERVICE)


def test_something_else_on_the_socket_is_a_protocol_error(agent: Any) -> None:
    agent.plays(replying(b"HTTP/1.1 400 Bad Request\r\n"))
    with pytest.raises(meshless_sdk.ProtocolError, match="has version 72 instead of 1"):
        meshless_sdk.connect(SERVICE)


def test_no_reply_in_time_is_a_handshake_timeout(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        assert connection.recv(1) == b""  # until the client gave up

    agent.plays(serve)
    with pytest.raises(meshless_sdk.HandshakeTimeout, match=r"did not reply for http\.cart\.shop within 0\.05 s") as caught:
        meshless_sdk.connect(SERVICE, handshake_timeout=0.05)
    assert caught.value.errno == errno.ETIMEDOUT


def test_half_a_reply_does_not_stretch_the_handshake_timeout(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(b"\x01")
        read_request(connection)
        assert connection.recv(1) == b""

    agent.plays(serve)
    with pytest.raises(meshless_sdk.HandshakeTimeout):
        meshless_sdk.connect(SERVICE, handshake_timeout=0.05)


def test_the_agents_own_timeout_is_told_from_ours(agent: Any) -> None:
    agent.plays(replying(b"\x01\x09"))
    with pytest.raises(meshless_sdk.AgentTimeout):
        meshless_sdk.connect(SERVICE)


def test_a_bad_service_id_is_found_before_anything_is_sent(pod: Path) -> None:
    with pytest.raises(meshless_sdk.InvalidServiceId):
        meshless_sdk.connect("cart")


def test_a_missing_socket_says_what_to_check(pod: Path, looks: Any) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable) as caught:
        meshless_sdk.connect(SERVICE, connect_timeout=0)
    assert looks.count == 1
    where = pod / "client" / "meshless"
    assert str(caught.value) == (
        f"cannot reach the agent at {where}: there is no such socket; "
        "check that this pod belongs to a mesh, or set MESHLESS_DIR"
    )
    assert caught.value.errno == errno.ENOENT
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_socket_nobody_listens_on_says_what_to_check(pod: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(pod / "client" / "meshless"))
    with pytest.raises(meshless_sdk.AgentUnavailable, match="nobody listens on it; check that the node's agent runs"):
        meshless_sdk.connect(SERVICE, connect_timeout=0)


@pytest.mark.parametrize("timeout", [20.0, None])
def test_a_socket_that_appears_in_time_is_waited_for(appearing: Any, timeout: float | None) -> None:
    appearing(3, replying(b"\x01\x00220 mail\r\n"))
    with meshless_sdk.connect(SERVICE, connect_timeout=timeout) as connection:
        assert connection.recv(100) == b"220 mail\r\n"
        assert connection.gettimeout() is None
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)


def test_a_socket_that_is_listened_on_again_in_time_is_waited_for(pod: Path, appearing: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(pod / "client" / "meshless"))
    appearing(3, replying(b"\x01\x00"))
    meshless_sdk.connect(SERVICE, connect_timeout=20).close()


def test_a_folder_that_appears_in_time_is_waited_for(pod: Path, looks: Any) -> None:
    (pod / "client").rmdir()
    (pod / "client").touch()  # not a folder

    def begin() -> None:
        (pod / "client").unlink()
        (pod / "client").mkdir()
        listener.bind(str(pod / "client" / "meshless"))
        listener.listen()
        thread.start()

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        thread = threading.Thread(target=serve_backlog, args=(listener,))
        looks.before(3, begin)
        meshless_sdk.connect(SERVICE, connect_timeout=20).close()
        thread.join()


def test_an_agent_that_never_comes_is_waited_for_until_the_connect_timeout(pod: Path) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match=r"no such socket; .* \(waited 0\.05 s\)$") as caught:
        meshless_sdk.connect(SERVICE, connect_timeout=0.05)
    assert caught.value.errno == errno.ENOENT
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_an_interrupt_while_waiting_for_an_agent_leaves_nothing_open(pod: Path, looks: Any) -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    looks.before(3, lambda: signal.setitimer(signal.ITIMER_REAL, 0.001))
    try:
        with pytest.raises(KeyboardInterrupt):
            meshless_sdk.connect(SERVICE, connect_timeout=None)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_path_that_is_no_stream_socket_says_so_at_once(pod: Path, looks: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(pod / "client" / "meshless"))
        with pytest.raises(meshless_sdk.AgentUnavailable, match=r"it is not a stream socket; check the path$"):
            meshless_sdk.connect(SERVICE)
    assert looks.count == 1


def test_without_meshless_dir_the_socket_is_in_slash_meshlet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHLESS_DIR", raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: pytest.fail(address), raising=False)
    with pytest.raises(pytest.fail.Exception, match=r"^/meshlet/client/meshless$"):
        meshless_sdk.connect(SERVICE)


def test_a_path_beyond_107_bytes_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    descriptor = os.open(folder, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"/proc/self/fd/{descriptor}/meshless")
        os.close(descriptor)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                replying(b"\x01\x00")(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        meshless_sdk.connect(SERVICE, path=str(folder / "meshless")).close()
        thread.join()


def test_a_full_backlog_is_waited_for_until_the_connect_timeout(busy: socket.socket) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match="its backlog stayed full until the connect timeout"):
        meshless_sdk.connect(SERVICE, connect_timeout=0.05)
    with pytest.raises(meshless_sdk.AgentUnavailable, match="its backlog stayed full"):
        meshless_sdk.connect(SERVICE, connect_timeout=0)


def serve_backlog(listener: socket.socket) -> None:
    """Accept until somebody sends a request (the connections that filled the backlog say nothing), and answer it OK."""
    accepted: list[socket.socket] = []
    while True:
        readable, _, _ = select.select([listener, *accepted], [], [], 20)
        assert readable, "nobody sends a request"
        for one in readable:
            if one is listener:
                accepted.append(listener.accept()[0])
                continue
            read_request(one)
            one.sendall(b"\x01\x00")
            for each in accepted:
                each.close()
            return


@pytest.mark.parametrize("timeout", [10.0, None])
def test_a_full_backlog_that_gets_room_in_time_is_no_error(busy: socket.socket, timeout: float | None) -> None:
    thread = threading.Thread(target=serve_backlog, args=(busy,))
    thread.start()
    meshless_sdk.connect(SERVICE, connect_timeout=timeout).close()
    thread.join()


@pytest.fixture
def ticking() -> Iterator[threading.Event]:
    """Signals interrupt every system call of the main thread; set once five have."""
    seen, enough = [], threading.Event()

    def tick(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) >= 5:
            enough.set()

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    yield enough
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_signals_while_waiting_for_the_backlog_do_not_make_a_connection_of_nothing(
    busy: socket.socket, ticking: threading.Event
) -> None:
    def serve() -> None:
        ticking.wait(10)
        serve_backlog(busy)

    thread = threading.Thread(target=serve)
    thread.start()
    meshless_sdk.connect(SERVICE, connect_timeout=20).close()
    thread.join()
    assert ticking.is_set()


def test_an_exception_from_a_signal_handler_leaves_nothing_open(agent: Any) -> None:
    class StopDiallingError(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise StopDiallingError

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        assert connection.recv(1) == b""

    before = signal.signal(signal.SIGALRM, interrupt)
    agent.plays(serve)
    try:
        with pytest.raises(StopDiallingError):
            meshless_sdk.connect(SERVICE)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_default_timeout_of_the_application_does_not_leak_in(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.plays(replying(b"\x01\x00"))
    socket.setdefaulttimeout(5)
    try:
        with meshless_sdk.connect(SERVICE) as connection:
            assert connection.gettimeout() is None
    finally:
        socket.setdefaulttimeout(None)
