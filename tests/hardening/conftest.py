"""A mesh of real processes on loopback, and an attacker who can reach a tunnel port and may hold real certificates."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import attrs
import pytest
import yaml

from meshless_core.dev.ports import ReservedPort
from meshless_core.documents import ServiceDocument
from meshless_core.documents_codec import decode_document
from meshless_core.identity import CertificateAuthority, certificates
from meshless_core.tunnel import OpenReply, OpenRequest, TunnelSession
from meshless_core.types import Endpoint, Identity, PodRef, ReplyCode, ServiceId

_T = TypeVar("_T")

TRUST_DOMAIN: Final = "mesh.local"
HANDSHAKE_TIMEOUT: Final = 1.0  # seconds
MAX_UNAUTHENTICATED: Final = 32
_LONGEST: Final = 20.0  # seconds
_libc = ctypes.CDLL(None)

CONFIG: Final[Mapping[str, Any]] = {
    "mesh": {"trust_domain": TRUST_DOMAIN},
    "agent": {
        "max_tunnels_unauthenticated": MAX_UNAUTHENTICATED,
        "tunnel_idle": "400ms",
        "drain_timeout": "0s",
        "ejection_base": "50ms",
    },
    "plugins": {
        "handshake_v1": None,
        "policy_declared": None,
        "canary_weighted": None,
        "transport_tls": {"handshake_timeout": HANDSHAKE_TIMEOUT},
        "discovery_file": {"paths": ["mesh.yaml"]},
        "bus_directory": {"path": "bus"},
    },
}

OBJECTS: Final = """
{apiVersion: meshless.dev/v1, kind: Meshlet, metadata: {namespace: shop, name: web},
 spec: {client: [{namespace: shop, meshlet: cart, service: http}, {namespace: shop, meshlet: db, service: sql}]}}
---
{apiVersion: meshless.dev/v1, kind: Meshlet, metadata: {namespace: shop, name: other}, spec: {}}
---
{apiVersion: meshless.dev/v1, kind: Meshlet, metadata: {namespace: shop, name: cart},
 spec: {server: {services: [{name: http}]}}}
---
{apiVersion: meshless.dev/v1, kind: Meshlet, metadata: {namespace: shop, name: db}, spec: {server: {services: [{name: sql}]}}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web-0, labels: {meshless/meshlet: web}},
 spec: {nodeName: node-a, containers: [{name: main}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: other-0, labels: {meshless/meshlet: other}},
 spec: {nodeName: node-a, containers: [{name: main}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: cart-0, labels: {meshless/meshlet: cart}},
 spec: {nodeName: node-b, containers: [{name: main}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: db-0, labels: {meshless/meshlet: db}},
 spec: {nodeName: node-b, containers: [{name: main}]}}
"""
PODS: Final = (("node-a", "web-0"), ("node-a", "other-0"), ("node-b", "cart-0"), ("node-b", "db-0"))


def wait_until(condition: Callable[[], _T], what: str, timeout: float = _LONGEST) -> _T:
    """Return the first true value of `condition`, which looks at another process, so that there is no event to wait for."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.01)
    return found


class _UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=_LONGEST)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_LONGEST)
        self.sock.connect(str(self._path))


class Mesh:
    """Reconciler, socketd and agent of two nodes as processes; node-b, which serves, is the one attacked."""

    def __init__(self, folder: Path, reconciler_options: Sequence[str]) -> None:
        self.folder = folder
        self._options = reconciler_options
        self._reserved = [ReservedPort(), ReservedPort()]
        self.ports = dict(
            zip(("node-a", "node-b"), (int(one.address.rpartition(":")[2]) for one in self._reserved), strict=True)
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self._services = contextlib.ExitStack()
        self.authority = CertificateAuthority.create(folder / "ca", TRUST_DOMAIN)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        (self.folder / "meshless.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
        (self.folder / "mesh.yaml").write_text(OBJECTS, encoding="utf-8")
        nodes = ",".join(f"{node}=127.0.0.1:{port}" for node, port in self.ports.items())
        self._spawn(
            "reconciler", f"--nodes={nodes}", "--state-dir=reconciler", "--ca=ca", "--issuer-dir=issuer", *self._options
        )
        for node, port in self.ports.items():
            (self.folder / node).mkdir()
            self._spawn("socketd", f"--node={node}", f"--pods-dir={node}/pods", f"--control={node}/socketd.sock")
            self._spawn(
                "agent", f"--node={node}", f"--socketd={node}/socketd.sock", f"--issuer=issuer/{node}.sock",
                f"--state-dir={node}/state", f"--tunnel-address=127.0.0.1:{port}", f"--admin=unix:{node}/admin.sock",
                f"--access-log={node}/access.log",
            )  # fmt: skip
        wait_until(lambda: all(map(self._ready, self.ports)), "agents are ready")
        wait_until(lambda: all(self.client_path(*where).is_socket() for where in PODS), "the pods' sockets are there")
        self._serve("cart-0", "http")
        self._serve("db-0", "sql")

    def stop(self) -> None:
        self._services.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()
        for port in self._reserved:
            port.release()

    def _spawn(self, command: str, *arguments: str) -> None:
        node = next((a.removeprefix("--node=") for a in arguments if a.startswith("--node=")), "")
        name = f"{command} {node}".strip()
        log = open(self.folder / f"{name.replace(' ', '-')}.log", "wb")  # noqa: SIM115 - closed by stop
        self._logs.append(log)
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-m", "meshless_core.cli", "--log-format=json", command, "--config=meshless.yaml", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: _libc.prctl(1, signal.SIGKILL),  # PR_SET_PDEATHSIG
        )

    def _ready(self, node: str) -> bool:
        process = self._processes[f"agent {node}"]
        assert process.poll() is None, self.log(node)
        try:
            return self.admin(node, "/readyz")[0] == 200
        except OSError:
            return False

    def _serve(self, pod: str, service: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / "node-b" / "pods" / "shop" / pod / "server" / service))
        listener.listen(128)

        def echo(connection: socket.socket) -> None:
            with connection, contextlib.suppress(ConnectionError):
                while data := connection.recv(65536):
                    connection.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener was closed
                while True:
                    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        self._services.callback(thread.join)
        self._services.callback(listener.close)
        self._services.callback(listener.shutdown, socket.SHUT_RDWR)

    # --- looking -----------------------------------------------------------------------------------------------------

    def admin(self, node: str, path: str) -> tuple[int, bytes]:
        with contextlib.closing(_UnixHttp(self.folder / node / "admin.sock")) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def connections(self, node: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.admin(node, "/connections")[1])
        return found

    def metric(self, node: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.admin(node, "/metrics")[1].decode().splitlines()
        samples = [line for line in lines if re.match(rf"{name}[{{ ]", line) and all(label in line for label in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def pid(self, node: str) -> int:
        """The agent's process id; the agent is alive."""
        process = self._processes[f"agent {node}"]
        assert process.poll() is None, f"the agent died:\n{self.log(node)}"
        return process.pid

    def descriptors(self, node: str) -> int:
        return len(os.listdir(f"/proc/{self.pid(node)}/fd"))

    def other_descriptors(self, node: str) -> int:
        """Descriptors beside those of tunnel sessions, of which an honest one may come and go."""
        while True:
            sessions = self.metric(node, "meshless_tunnel_sessions")
            count = self.descriptors(node)
            if self.metric(node, "meshless_tunnel_sessions") == sessions:
                return count - int(sessions)

    def log(self, node: str) -> str:
        return (self.folder / f"agent-{node}.log").read_text(encoding="utf-8")

    def access_log(self, node: str) -> list[dict[str, Any]]:
        path = self.folder / node / "access.log"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def client_path(self, node: str, pod: str) -> Path:
        return self.folder / node / "pods" / "shop" / pod / "client" / "meshless"

    # --- an honest client ----------------------------------------------------------------------------------------------

    def open(self, pod: str = "web-0", service: str = "http.cart.shop") -> tuple[socket.socket, ReplyCode]:
        """Dial from node-a; the client socket and the reply."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(_LONGEST)
        client.connect(str(self.client_path("node-a", pod)))
        client.sendall(bytes((1, len(service))) + service.encode())
        reply = b""
        while len(reply) < 2:
            part = client.recv(2 - len(reply))
            assert part, "the agent always replies"
            reply += part
        return client, ReplyCode(reply[1])

    def exchange(self, service: str = "http.cart.shop") -> None:
        """One whole honest connection that ends cleanly."""
        client, code = self.open(service=service)
        with client:
            assert code is ReplyCode.OK
            say(client, b"honest")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""

    # --- an attacker's means -------------------------------------------------------------------------------------------

    def endpoint(self, meshlet: str = "cart", service: str = "http") -> Endpoint:
        topic = f"service/shop/{meshlet}/{service}"
        body = decode_document(topic, (self.folder / "bus" / f"{topic}.json").read_bytes()).body
        assert isinstance(body, ServiceDocument)
        return body.endpoints[0]

    def request(self, meshlet: str = "cart", service: str = "http", **changes: Any) -> OpenRequest:
        """An OPEN as an honest agent would make it."""
        endpoint = self.endpoint(meshlet, service)
        honest = OpenRequest(
            connection_id=os.urandom(16),
            service=ServiceId(service, meshlet, "shop"),
            pod=endpoint.pod,
            pod_uid=endpoint.uid,
            source_pod=PodRef("shop", "web-0"),
            deadline_ms=5000,
        )
        return attrs.evolve(honest, **changes)

    def leaf(
        self, meshlet: str = "web", *, authority: CertificateAuthority | None = None, lifetime: float = 3600
    ) -> tuple[str, str]:
        """Files of a chain and a key that prove `meshlet`."""
        key = certificates.generate_key()
        signer = authority or self.authority
        identity = Identity(signer.trust_domain, "shop", meshlet)
        chain = signer.issue(certificates.build_request(key), identity, lifetime=datetime.timedelta(seconds=lifetime))
        base = self.folder / f"leaf-{os.urandom(6).hex()}"
        base.with_suffix(".crt").write_text(chain)
        base.with_suffix(".key").write_bytes(certificates.key_to_pem(key))
        return str(base.with_suffix(".crt")), str(base.with_suffix(".key"))

    def context(self, leaf: tuple[str, str] | None, *, alpn: Sequence[str] = ("meshless/1",)) -> ssl.SSLContext:
        """A TLS client's context that breaks what a test wants broken; it trusts anything."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if leaf is not None:
            context.load_cert_chain(*leaf)
        return context

    def tcp(self) -> socket.socket:
        """A plain connection to the attacked port."""
        connection = socket.create_connection(("127.0.0.1", self.ports["node-b"]), timeout=_LONGEST)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def tunnel(self, context: ssl.SSLContext, server_name: str | None = "cart.shop.meshlet.mesh.local") -> Tunnel:
        """A TLS session with the attacked port, as far as a client can tell."""
        connection = self.tcp()
        try:
            return Tunnel(context.wrap_socket(connection, server_hostname=server_name))
        except BaseException:
            connection.close()
            raise


class Tunnel:
    """A client's end of a tunnel that does what a test tells it to."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        self.protocol = TunnelSession("client")

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()

    def open(self, request: OpenRequest) -> OpenReply:
        self.tls.sendall(self.protocol.open(request))
        while True:
            data = self.tls.recv(65536)
            assert data, "closed without a reply"
            for event in self.protocol.receive(memoryview(data)):
                assert isinstance(event, OpenReply), event
                return event

    def everything(self) -> bytes:
        """What the server still says until it ends the session, in whatever way."""
        data = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while part := self.tls.recv(65536):
                data += part
        return data


def say(connection: socket.socket, data: bytes) -> None:
    """Send to an echo and read the echo."""
    connection.sendall(data)
    received = b""
    while len(received) < len(data):
        part = connection.recv(len(data) - len(received))
        assert part, "ended early"
        received += part
    assert received == data


@pytest.fixture(scope="module")
def reconciler_options() -> Sequence[str]:
    """Further options of the reconciler."""
    return ()


@pytest.fixture(scope="module")
def mesh(reconciler_options: Sequence[str]) -> Iterator[Mesh]:
    """The mesh, up and serving."""
    made = Mesh(Path(tempfile.mkdtemp(prefix="meshless-")), reconciler_options)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.folder)


@pytest.fixture(scope="module")
def at_rest(mesh: Mesh) -> int:
    """Descriptors of the attacked agent that are no tunnel session. It keeps one of each service's socket once it was used."""
    mesh.exchange()
    mesh.exchange("sql.db.shop")
    return min(mesh.other_descriptors("node-b") for _ in range(5))  # the admin connection that asks may still be there


@pytest.fixture
def unharmed(mesh: Mesh, at_rest: int) -> Iterator[None]:
    """After the test the agent is the same process, serves as before, and holds no descriptor and no session more."""
    mesh.exchange()
    pid = mesh.pid("node-b")
    yield
    mesh.exchange()
    wait_until(lambda: mesh.metric("node-b", "meshless_tunnel_sessions") <= 2, "only the honest sessions are left")
    wait_until(lambda: mesh.other_descriptors("node-b") <= at_rest, "descriptors are given back")
    wait_until(lambda: mesh.metric("node-b", "meshless_connections_active") == 0, "no connection is left")
    assert mesh.pid("node-b") == pid
    assert "Traceback" not in mesh.log("node-b")


@pytest.fixture
def patience() -> Callable[..., Any]:
    """`wait_until`."""
    return wait_until
