"""Stand-ins for a node's agent, so that commands can be tested alone: real sockets, handshake and admin endpoint, no mesh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from meshless_core.agent.admin import AdminServer, Answer
from meshless_core.handshake import ServerHandshake
from meshless_core.types import ReplyCode


class StandInAgent:
    """Joins a pod's client socket with the same pod's server sockets, or refuses with `refuse_with`."""

    def __init__(self, pod: Path) -> None:
        self.pod = pod
        self.refuse_with: ReplyCode | None = None
        self.dialled: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(pod / "client" / "meshless"))
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
            handshake = ServerHandshake()
            while (request := handshake.receive_data(client.recv(4096))) is None:
                pass
            self.dialled.append(str(request.service_id))
            if self.refuse_with is not None:
                client.sendall(handshake.reply(self.refuse_with))
                return
            try:
                service.connect(str(self.pod / "server" / request.service_id.service))
            except OSError:
                client.sendall(handshake.reply(ReplyCode.SERVICE_REFUSED))
                return
            client.sendall(handshake.reply(ReplyCode.OK))
            service.sendall(handshake.trailing_data)
            back = threading.Thread(target=_copy, args=(service, client))
            back.start()
            _copy(client, service)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Running:
    """A `meshless` command as a process."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        environment = {**os.environ, "MESHLESS_LOG_FORMAT": "json"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from meshless_core.cli.main import main; main()", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            **options,
        )

    def line(self, stream: str = "stdout") -> str:
        """The next line the command prints; waits for it."""
        out = getattr(self.process, stream)
        line: bytes = out.readline()
        return line.decode()

    def ends(self, given: bytes | None = None) -> tuple[int, bytes, str]:
        """Exit status, standard output and standard error once it ended by itself."""
        out, err = self.process.communicate(given, timeout=30)
        return self.process.returncode, out, err.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def pod(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p")
    (folder / "client").mkdir()
    (folder / "server").mkdir()
    return folder


@pytest.fixture
def agent(pod: Path) -> Iterator[StandInAgent]:
    stand_in = StandInAgent(pod)
    yield stand_in
    stand_in.close()


@pytest.fixture
def meshless() -> Iterator[Callable[..., Running]]:
    """Start `meshless` commands; what still runs at the end of the test is killed."""
    started: list[Running] = []

    def start(*arguments: str, **options: Any) -> Running:
        started.append(Running(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def service(pod: Path) -> Iterator[socket.socket]:
    """A listening server socket of the service `http`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(pod / "server" / "http"))
        listener.listen(64)
        listener.settimeout(20)
        yield listener


@pytest.fixture
def dial_as_agent(pod: Path) -> Callable[[str], socket.socket]:
    """Connect to one of the pod's server sockets, as an agent does."""

    def connect(name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(20)
        connection.connect(str(pod / "server" / name))
        return connection

    return connect


class StandInAdmin:
    """The admin endpoints of the nodes of a dev mesh in `run`, with answers a test sets: JSON values, or whole `Answer`s."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._servers: list[AdminServer] = []

    def serve(self, node: str, answers: Mapping[str, Any]) -> str:
        """Answer at a node's admin socket from now on; returns its address."""
        address = f"unix:{self.run}/nodes/{node}/admin.sock"
        server = AdminServer(address, {path: self._handler(answer) for path, answer in answers.items()})
        asyncio.run_coroutine_threadsafe(server.start(), self._loop).result(10)
        self._servers.append(server)
        return address

    def silent(self, node: str) -> None:
        """A node whose agent is gone."""
        (self.run / "nodes" / node).mkdir(parents=True)

    def close(self) -> None:
        for server in self._servers:
            asyncio.run_coroutine_threadsafe(server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @staticmethod
    def _handler(answer: Any) -> Callable[[Mapping[str, str]], Any]:
        async def handle(_query: Mapping[str, str]) -> Answer:
            return answer if isinstance(answer, Answer) else Answer.json(answer)

        return handle


@pytest.fixture
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInAdmin]:
    stand_in = StandInAdmin(tmp_path_factory.mktemp("run"))
    yield stand_in
    stand_in.close()
