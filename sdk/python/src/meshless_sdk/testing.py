r"""An agent inside the test's own process, for unit tests of applications: what they dial, and what they hear, is a script.

    from meshless_sdk.testing import FakeAgent

    with FakeAgent() as agent:                                    # MESHLESS_DIR points to it inside the block
        agent.serve("http.cart.shop", lambda connection: connection.sendall(b"hello"))
        agent.refuse("sql.db.shop", "NO_ENDPOINT", times=2)       # then what was set before, or SERVICE_NOT_FOUND
        ...
        assert agent.dials[0].service_id == "http.cart.shop"

It speaks versions 1 and 2 of the handshake over a real socket, and hands connections over if told to. It knows no policy, no
certificates and no other node: for those, start a small real mesh (`meshless_sdk.pytest_plugin`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple

from meshless_sdk.errors import CODES
from meshless_sdk.paths import address_of
from meshless_sdk.wire import encode_request

__all__ = ["Dial", "FakeAgent"]

_CODES: Final = {error.name: code for code, error in CODES.items()}
_PATIENCE: Final = 10.0
"""Seconds after which a request that stays incomplete, or a handler that does not end, is an error of the test."""


class Dial(NamedTuple):
    """One dial as the agent saw it.

    Attributes:
        service_id: what was asked for.
        handshake_version: 1 or 2.
        connection_id: hexadecimal, as it was told to a client of version 2.
        deadline: seconds the client said it waits, None if it did not.
        traceparent: empty if not given.
        sticky_key: empty if not given.
        version_pin: empty if not given.
        accepts_descriptor: whether the client can receive a descriptor.
    """

    service_id: str
    handshake_version: int
    connection_id: str
    deadline: float | None = None
    traceparent: str = ""
    sticky_key: bytes = b""
    version_pin: str = ""
    accepts_descriptor: bool = False


class _Refusal(NamedTuple):
    code: int
    retry_after: float | None
    text: str


class _Service:
    """What is scripted for one service id."""

    def __init__(self) -> None:
        self.handler: Callable[[socket.socket], object] | None = None
        self.version = ""
        self.refusals: list[_Refusal] = []
        self.always: _Refusal | None = None
        self.leases: list[socket.socket] = []


class FakeAgent:
    """A scripted agent. A context manager: inside, `MESHLESS_DIR` names its folder.

    What went wrong in a handler is raised at the end of the block.

    Attributes:
        directory: the pod's folder, with `client` and `server` in it.
        path: the agent's socket.
        dials: what was dialled, in order.
    """

    def __init__(self, *, versions: tuple[int, ...] = (1, 2), hand_over: bool = False) -> None:
        """Set up.

        Args:
            versions: of the handshake that it speaks: `(1,)` plays an older agent.
            hand_over: hand connections over to clients that accept it.
        """
        self.directory = ""
        self.path = ""
        self.dials: list[Dial] = []
        self._versions = versions
        self._hand_over = hand_over
        self._services: dict[str, _Service] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._failures: list[BaseException] = []
        self._listener: socket.socket | None = None
        self._before: str | None = None

    def serve(self, service_id: str, handler: Callable[[socket.socket], object], *, version: str = "") -> None:
        """Say yes to dials of a service; `handler` plays the server, in a thread per connection, which is closed after it.

        Args:
            service_id: `<service>.<meshlet>.<namespace>`.
            handler: called with the server's end of each connection.
            version: what to tell clients of version 2 as the chosen version.

        Raises:
            InvalidServiceId: no client can dial that name.
        """
        with self._lock:
            service = self._of(service_id)
            service.handler, service.version = handler, version

    def forward(self, service_id: str, path: str, *, header: bytes = b"") -> None:
        """Say yes to dials of a service, and connect them to whoever listens on a Unix socket.

        Args:
            service_id: `<service>.<meshlet>.<namespace>`.
            path: of the socket, `f"{agent.directory}/server/http"` for a server of the same test.
            header: written first, a PROXY header for example.
        """
        self.serve(service_id, lambda connection: _relay(connection, path, header))

    def refuse(
        self, service_id: str, name: str, *, times: int | None = None, retry_after: float | None = None, text: str = ""
    ) -> None:
        """Say no to dials of a service.

        Args:
            service_id: `<service>.<meshlet>.<namespace>`.
            name: of the reply code, `ACCESS_DENIED` for example.
            times: how often before what else is set holds again; for ever if None.
            retry_after: seconds to tell clients of version 2.
            text: to tell clients of version 2.

        Raises:
            ValueError: no reply code has this name.
            InvalidServiceId: no client can dial that service.
        """
        if name not in _CODES:
            raise ValueError(f"{name!r} is no reply code that refuses: write one of {', '.join(_CODES)}")
        refusal = _Refusal(_CODES[name], retry_after, text)
        with self._lock:
            service = self._of(service_id)
            if times is None:
                service.always = refusal
            else:
                service.refusals += [refusal] * times

    def _of(self, service_id: str) -> _Service:
        encode_request(service_id)  # a name that nobody can dial is a mistake in the test
        return self._services.setdefault(service_id, _Service())

    def allow(self, service_id: str) -> None:
        """Take back every refusal of a service."""
        with self._lock:
            service = self._of(service_id)
            service.refusals, service.always = [], None

    def drain(self, service_id: str, text: str = "") -> int:
        """Ask the clients of handed-over connections to finish soon; returns how many there are."""
        return self._notify(service_id, 1, text)

    def revoke(self, service_id: str, text: str = "") -> int:
        """Tell the clients of handed-over connections that they are no longer allowed; returns how many there are."""
        return self._notify(service_id, 2, text)

    def handed_over(self, service_id: str) -> int:
        """How many handed-over connections of a service have their lease open at this end."""
        with self._lock:
            service = self._services.get(service_id)
            return len(service.leases) if service else 0

    def __enter__(self) -> FakeAgent:
        self.directory = tempfile.mkdtemp(prefix="meshless-")
        os.mkdir(f"{self.directory}/client")
        os.mkdir(f"{self.directory}/server")
        self.path = f"{self.directory}/client/meshless"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with address_of(self.path) as address:
            self._listener.bind(address)
        self._listener.listen(1024)
        self._before = os.environ.get("MESHLESS_DIR")
        os.environ["MESHLESS_DIR"] = self.directory
        self._start(self._accept, self._listener)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._listener is not None
        if self._before is None:
            os.environ.pop("MESHLESS_DIR", None)
        else:
            os.environ["MESHLESS_DIR"] = self._before
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
            if thread.is_alive():
                self._failures.append(TimeoutError("a handler did not end; see that it ends when its connection does"))
        self._listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._failures and kind is None:
            raise self._failures[0]

    # --- a connection ------------------------------------------------------------------------------------------------

    def _start(self, target: Callable[[socket.socket], object], connection: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(connection,), name="a connection of the fake agent", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the block has ended
            self._start(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            with self._lock:
                self._open.add(connection)
            try:
                connection.settimeout(_PATIENCE)
                self._answer(connection)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client's right
            except BaseException as error:  # noqa: BLE001 - a handler of the test failed: told at the end of the block
                self._failures.append(error)
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _answer(self, connection: socket.socket) -> None:
        first = connection.recv(1)
        if not first:
            return
        if first[0] not in self._versions:
            connection.sendall(b"\x01\x01")
            connection.recv(4096)  # closing with something unread would take the reply away
            return
        dial = _read_dial(connection, first[0])
        if dial is None:
            connection.sendall(b"\x01\x02" if first[0] == 1 else b"\x02\x02\x00\x00")
            return
        with self._lock:
            self.dials.append(dial)
            service = self._services.get(dial.service_id) or _Service()
            refusal = service.refusals.pop(0) if service.refusals else service.always
        handler = service.handler
        if refusal is None and handler is None:
            refusal = _Refusal(_CODES["SERVICE_NOT_FOUND"], None, "no handler is set in this test")
        if refusal is not None:
            connection.sendall(_reply(dial, refusal.code, retry_after=refusal.retry_after, text=refusal.text))
            return
        assert handler is not None
        if self._hand_over and dial.accepts_descriptor:
            self._converse_beside(connection, dial, service, handler)
            return
        connection.sendall(_reply(dial, 0, version=service.version))
        connection.settimeout(None)
        handler(connection)

    def _converse_beside(
        self, connection: socket.socket, dial: Dial, service: _Service, handler: Callable[[socket.socket], object]
    ) -> None:
        server, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with server:
            with client:
                connection.sendall(_reply(dial, 0, version=service.version, descriptor=True))
                socket.send_fds(connection, [b"\0"], [client.fileno()])
            lease = connection.dup()
            with self._lock:
                service.leases.append(lease)
                self._open.add(server)
            self._start(partial(self._await_end, service), lease)
            try:
                handler(server)
            finally:
                with self._lock:
                    self._open.discard(server)

    def _await_end(self, service: _Service, lease: socket.socket) -> None:
        with lease:
            lease.settimeout(None)
            with contextlib.suppress(OSError):
                lease.recv(1)
            with self._lock:
                service.leases.remove(lease)

    def _notify(self, service_id: str, kind: int, text: str) -> int:
        data = text.encode()[:256]
        with self._lock:
            leases = list(self._services[service_id].leases)
        for lease in leases:
            with contextlib.suppress(OSError):
                lease.sendall(bytes((kind,)) + len(data).to_bytes(2, "big") + data)
        return len(leases)


def _read_dial(connection: socket.socket, version: int) -> Dial | None:
    """A request behind its first byte; None if it is malformed."""
    connection_id = os.urandom(16).hex()
    if version == 1:
        service_id = _read(connection, _read(connection, 1)[0])
        return Dial(service_id.decode("ascii"), 1, connection_id) if service_id.isascii() else None
    body = _read(connection, int.from_bytes(_read(connection, 2), "big"))
    fields: dict[int, bytes] = {}
    at = 1 + body[0]
    while at < len(body):
        size = int.from_bytes(body[at + 1 : at + 3], "big")
        fields[body[at] & 0x7F] = body[at + 3 : at + 3 + size]
        at += 3 + size
    try:
        return Dial(
            body[1 : 1 + body[0]].decode("ascii"),
            2,
            connection_id,
            deadline=int.from_bytes(fields[1], "big") / 1000 if 1 in fields else None,
            traceparent=fields.get(2, b"").decode("ascii"),
            sticky_key=fields.get(3, b""),
            version_pin=fields.get(4, b"").decode("ascii"),
            accepts_descriptor=5 in fields,
        )
    except UnicodeDecodeError:
        return None


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the client ended within its request")
        data += part
    return data


def _reply(
    dial: Dial, code: int, *, version: str = "", retry_after: float | None = None, text: str = "", descriptor: bool = False
) -> bytes:
    if dial.handshake_version == 1:
        return bytes((1, code))
    fields = [(0x11, bytes.fromhex(dial.connection_id))]
    if version:
        fields.append((0x12, version.encode("ascii")))
    if not code:
        fields.append((0x13, b"test/fake-0"))
    if retry_after is not None:
        fields.append((0x14, round(retry_after * 1000).to_bytes(4, "big")))
    if text:
        fields.append((0x15, text.encode()[:256]))
    if descriptor:
        fields.append((0x96, b""))
    body = b"".join(bytes((number,)) + len(value).to_bytes(2, "big") + value for number, value in fields)
    return bytes((2, code)) + len(body).to_bytes(2, "big") + body


def _relay(client: socket.socket, path: str, header: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        with address_of(path) as address:
            server.connect(address)
        server.sendall(header)
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
