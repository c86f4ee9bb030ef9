from __future__ import annotations

import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Handler = Callable[[socket.socket], None]


class Agent:
    """A stand-in for the node's agent: accepts on a pod's client socket and lets a function play the other side."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.errors: list[BaseException] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(16)
        self._threads: list[threading.Thread] = []

    def plays(self, handler: Handler) -> None:
        """Take one connection and let `handler` serve it; it is closed afterwards."""

        def serve() -> None:
            try:
                connection, _ = self.listener.accept()
                with connection:
                    connection.settimeout(10)
                    handler(connection)
            except BaseException as error:  # noqa: BLE001 - told at the end of the test
                self.errors.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "nobody dialled, or a handler hangs"
        self.listener.close()
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def pod(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod's folder, short enough for a socket address, where `MESHLESS_DIR` points."""
    folder = tmp_path_factory.mktemp("p")
    (folder / "client").mkdir()
    (folder / "server").mkdir()
    monkeypatch.setenv("MESHLESS_DIR", str(folder))
    return folder


@pytest.fixture
def agent(pod: Path) -> Iterator[Agent]:
    stand_in = Agent(str(pod / "client" / "meshless"))
    yield stand_in
    stand_in.close()


class Looks:
    """How often this process has asked the kernel to connect a socket, heard of just before it is asked."""

    def __init__(self) -> None:
        self.count = 0
        self._events: dict[int, Callable[[], object]] = {}

    def before(self, number: int, happens: Callable[[], object]) -> None:
        """Let something happen just before the `number`th look, the first being 1."""
        self._events[number] = happens

    def begin(self) -> None:
        self.count += 1
        self._events.get(self.count, lambda: None)()


@pytest.fixture(scope="session")
def lookers() -> list[Looks]:
    """Whom to tell about connects: an audit hook cannot be taken away."""
    told: list[Looks] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.connect":
            for each in told:
                each.begin()

    sys.addaudithook(hook)
    return told


@pytest.fixture
def looks(lookers: list[Looks]) -> Iterator[Looks]:
    one = Looks()
    lookers.append(one)
    yield one
    lookers.remove(one)


@pytest.fixture
def appearing(pod: Path, looks: Looks) -> Iterator[Callable[[int, Handler], None]]:
    """Let an agent begin to listen in the pod just before the given look, and serve one connection."""
    begun: list[Agent] = []

    def appear(number: int, handler: Handler) -> None:
        def begin() -> None:
            path = pod / "client" / "meshless"
            path.unlink(missing_ok=True)
            begun.append(Agent(str(path)))
            begun[-1].plays(handler)

        looks.before(number, begin)

    yield appear
    assert begun, "nobody looked often enough"
    for stand_in in begun:
        stand_in.close()


@pytest.fixture
def no_descriptor_leaks() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)


def _fill_backlog(path: str) -> list[socket.socket]:
    waiting: list[socket.socket] = []
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(path)
        except BlockingIOError:
            connection.close()
            return waiting
        waiting.append(connection)


@pytest.fixture
def busy(pod: Path) -> Iterator[socket.socket]:
    """The listener of an agent whose backlog is full."""
    path = str(pod / "client" / "meshless")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = _fill_backlog(path)
        yield listener
        for connection in waiting:
            connection.close()


@pytest.fixture(scope="session")
def watcher() -> None:
    """The process's one lease watcher has begun, so that its own descriptors are no leak of a test."""
    from meshless_sdk import leases

    leases._watch()


class Shop:
    """A service that speaks HTTP, behind a scripted agent: what HTTP clients are tested with.

    `/hello` answers, `/slow` waits for `proceed`, `/stream` sends half and waits, POST anywhere echoes, `/close` closes.
    """

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.proceed = threading.Event()
        agent.serve("http.cart.shop", self._serve)

    def _serve(self, connection: socket.socket) -> None:
        shop = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                self.connection = connection
                self.rfile = connection.makefile("rb")
                self.wfile = connection.makefile("wb", 0)  # type: ignore[assignment] # unbuffered, as its base class has it

            def log_message(self, *args: object) -> None:
                pass

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                if self.path == "/close":
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                if self.path == "/slow":
                    shop.proceed.wait(10)
                if self.path == "/stream":
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"5\r\nfirst\r\n")
                    shop.proceed.wait(10)
                    self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")
                    return
                self.answer(f"hello from {self.headers['Host']}".encode())

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        handler = Handler(connection, "", None)  # type: ignore[arg-type] # it needs no server
        handler.rfile.close()
        handler.wfile.close()

    def leave(self) -> bool:
        """The agent says that it goes; whether there was a lease to say it on. The SDK has heard it."""
        from meshless_sdk import leases

        if not self.agent.drain("http.cart.shop"):
            return False
        deadline = time.monotonic() + 10
        watched = [lease for reference in list(leases._watch()._leases.values()) if (lease := reference()) is not None]
        while not all(lease.draining for lease in watched):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return True

    @property
    def connections(self) -> int:
        """How many connections have been made."""
        return len(self.agent.dials)


@pytest.fixture(params=[False, True], ids=["relayed", "handed-over"])
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    from meshless_sdk.testing import FakeAgent

    with FakeAgent(hand_over=request.param) as agent:
        one = Shop(agent)
        yield one
        one.proceed.set()
