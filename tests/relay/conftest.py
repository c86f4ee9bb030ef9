"""What the relay's tests are made of: a reactor, and secure streams over sockets that the test owns."""

import asyncio
import socket
import ssl
from typing import Any

import pytest

from meshless_core.relay.loop import DataPathLoop
from meshless_core.relay.reactor import Reactor
from meshless_core.types import Identity
from tests.relay.framed_sessions import Sessions


def pytest_asyncio_loop_factories():
    """What is promised holds in the loop of an agent and in any other."""
    return {"data path": DataPathLoop, "asyncio": asyncio.new_event_loop}


CLIENT = Identity("test.local", "shop", "web")
SERVER = Identity("test.local", "shop", "cart")


class PlaintextStream:
    """The `SecureStream` contract over a bare socket. `taken` bounds what one write takes, `lazy` keeps bytes until `flush`."""

    def __init__(self, sock, *, local=CLIENT, peer=SERVER, taken=1 << 20, lazy=False):
        sock.setblocking(False)
        self.sock, self.local, self.peer, self.serial = sock, local, peer, "1"
        self.expires = float("inf")
        self.taken, self.lazy, self.kept, self.closed = taken, lazy, b"", False

    def fileno(self):
        return self.sock.fileno()

    def readinto(self, buffer):
        try:
            return self.sock.recv_into(buffer)
        except BlockingIOError:
            return None

    def pending(self):
        return False

    def write(self, data):
        if self.lazy:
            if self.kept:
                return None
            self.kept = bytes(data[: self.taken])
            return len(self.kept)
        try:
            return self.sock.send(data[: self.taken])
        except BlockingIOError:
            return None

    def flush(self):
        if self.kept:
            try:
                sent = self.sock.send(self.kept)
            except BlockingIOError:
                return False
            self.kept = self.kept[sent:]
        return not self.kept

    def close(self):
        self.closed = True
        self.sock.close()


class TlsStream:
    """The same over `ssl` with memory BIOs: decrypted bytes may be pending while the socket is not readable."""

    def __init__(self, sock, context, *, server_side, local=CLIENT, peer=SERVER):
        sock.setblocking(False)
        self.sock, self.local, self.peer, self.serial, self.closed = sock, local, peer, "1", False
        self.incoming, self.outgoing, self.kept = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side)

    async def handshake(self):
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                self.incoming.write(await loop.sock_recv(self.sock, 65536))
            else:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                return self

    def fileno(self):
        return self.sock.fileno()

    def readinto(self, buffer):
        total = 0
        while total < len(buffer):
            try:
                n = self.tls.read(len(buffer) - total, buffer[total:])
            except ssl.SSLWantReadError:
                if total:
                    break
                try:
                    data = self.sock.recv(65536)
                except BlockingIOError:
                    return None
                if not data:
                    return 0
                self.incoming.write(data)
                continue
            if not n:
                break
            total += n
        return total

    def pending(self):
        return self.tls.pending() > 0 or self.incoming.pending > 0

    def write(self, data):
        if self.kept and not self.flush():
            return None
        return self.tls.write(data)

    def flush(self):
        self.kept += self.outgoing.read()
        if self.kept:
            try:
                sent = self.sock.send(self.kept)
            except BlockingIOError:
                return False
            self.kept = self.kept[sent:]
        return not self.kept

    def close(self):
        self.closed = True
        self.sock.close()


def tcp_pair():
    """Two ends of one TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


@pytest.fixture
def pair():
    """Factory of connected sockets, "unix" or "tcp"; all are closed afterwards."""
    made: list[socket.socket] = []

    def make(kind):
        ends = socket.socketpair() if kind == "unix" else tcp_pair()
        made.extend(ends)
        return ends

    yield make
    for end in made:
        end.close()


@pytest.fixture
async def reactor():
    reactor = Reactor(asyncio.get_running_loop())
    yield reactor
    left = len(reactor)
    reactor.close()
    assert left == 0, f"{left} descriptors were left in the reactor"


@pytest.fixture(scope="session")
def tls_contexts(tmp_path_factory):
    """Contexts of both sides with a throw-away certificate: it is the framing that is tested here, not identity."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay-test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    server.num_tickets = 0
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client, server


@pytest.fixture
def streams(tls_contexts):
    """Factory of two connected secure streams, (client, server), "plaintext" or "tls"."""
    made: list[PlaintextStream | TlsStream] = []

    async def make(kind="plaintext", **options):
        near, far = tcp_pair()
        both: tuple[PlaintextStream, PlaintextStream] | tuple[TlsStream, TlsStream]
        if kind == "plaintext":
            both = PlaintextStream(near, **options), PlaintextStream(far, local=SERVER, peer=CLIENT, **options)
        else:
            client, server = tls_contexts
            near_end = TlsStream(near, client, server_side=False)
            far_end = TlsStream(far, server, server_side=True, local=SERVER, peer=CLIENT)
            await asyncio.gather(near_end.handshake(), far_end.handshake())
            both = near_end, far_end
        made.extend(both)
        return both

    yield make
    for stream in made:
        stream.close()


VARIANTS: dict[str, dict[str, Any]] = {
    "plaintext": {},
    "tls": {"kind": "tls"},
    "one byte at a time": {"taken": 1},
    "lazy": {"lazy": True},
    "lazy, 7 bytes at a time": {"lazy": True, "taken": 7},
}


@pytest.fixture(params=VARIANTS)
async def sessions(request, reactor, pair, streams):
    sessions = Sessions(reactor, pair, await streams(**VARIANTS[request.param]))
    yield sessions
    sessions.close()


@pytest.fixture
async def plaintext(reactor, pair, streams):
    sessions = Sessions(reactor, pair, await streams())
    yield sessions
    sessions.close()
