"""What whoever reaches an agent's tunnel port can do to it: nothing, and the agent says what was tried.

The attacked agent is a process of its own. Around each attack, `unharmed` shows that it is the same process afterwards, serves
as before and holds no descriptor more.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshless_core.identity import CertificateAuthority
from meshless_core.tunnel.frames import FrameType, encode_fin, encode_open
from meshless_core.types import PodRef, ReplyCode

pytestmark = pytest.mark.usefixtures("unharmed")

HANDSHAKE_TIMEOUT = 1.0  # seconds, as the fixture sets it
MAX_UNAUTHENTICATED = 32  # likewise
TUNNEL_IDLE = 0.4  # seconds, likewise


def client_flights(mesh: Any, leaf: tuple[str, str]) -> tuple[bytes, bytes, socket.socket]:
    """What an honest client sends to authenticate, in two parts, and its connection."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = mesh.context(leaf).wrap_bio(incoming, outgoing, server_hostname="cart.shop.meshlet.mesh.local")
    connection = mesh.tcp()
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    first = outgoing.read()
    connection.sendall(first)
    while True:
        incoming.write(connection.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
            break
    return first, outgoing.read(), connection


# --- before authentication -----------------------------------------------------------------------------------------------


def send_plain(data: bytes) -> Callable[[Any], None]:
    def attack(mesh: Any) -> None:
        with mesh.tcp() as connection:
            connection.sendall(data)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass  # an alert, perhaps

    return attack


def hang_up(mesh: Any) -> None:
    mesh.tcp().close()


def stall(mesh: Any) -> None:
    send_plain(b"\x16\x03\x01")(mesh)


def drip(mesh: Any) -> None:
    """One byte after the other of a record that would be fine, slowly: never silent for long, never done."""
    with mesh.tcp() as connection:
        connection.settimeout(0.02)
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(500):
            try:
                connection.sendall(bytes((byte,)))
                if not connection.recv(100):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("the agent waited for all of it")


def tls(
    leaf: Callable[[Any], tuple[str, str] | None],
    *,
    server_name: str | None = "cart.shop.meshlet.mesh.local",
    alpn: tuple[str, ...] = ("meshless/1",),
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Callable[[Any], None]:
    """A TLS client that goes as far as it is let, and asks for a service if it believes to be in."""

    def attack(mesh: Any) -> None:
        context = mesh.context(leaf(mesh), alpn=alpn)
        context.maximum_version = newest
        with contextlib.suppress(ssl.SSLError, ConnectionError), mesh.tunnel(context, server_name) as tunnel:
            tunnel.open(mesh.request())
            pytest.fail("it was answered")

    return attack


def own_leaf(mesh: Any) -> tuple[str, str]:
    chain_and_key: tuple[str, str] = mesh.leaf("web")
    return chain_and_key


def no_leaf(_mesh: Any) -> None:
    return None


def foreign_leaf(mesh: Any) -> tuple[str, str]:
    """The right name, by another authority that claims the same trust domain."""
    other = CertificateAuthority.create(mesh.folder / f"ca-{os.urandom(4).hex()}", "mesh.local")
    chain_and_key: tuple[str, str] = mesh.leaf("web", authority=other)
    return chain_and_key


def late_leaf(mesh: Any) -> tuple[str, str]:
    earlier = CertificateAuthority.load(mesh.folder / "ca", clock=lambda: time.time() - 7200)
    chain_and_key: tuple[str, str] = mesh.leaf("web", authority=earlier, lifetime=3600)
    return chain_and_key


def early_leaf(mesh: Any) -> tuple[str, str]:
    later = CertificateAuthority.load(mesh.folder / "ca", clock=lambda: time.time() + 7200)
    chain_and_key: tuple[str, str] = mesh.leaf("web", authority=later)
    return chain_and_key


def replay(mesh: Any) -> None:
    """What an honest client said, once more: its signature was about the server's other random number."""
    first, second, honest = client_flights(mesh, mesh.leaf("web"))
    honest.close()
    with mesh.tcp() as connection:
        connection.sendall(first)
        assert connection.recv(65536)
        connection.sendall(second)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


ATTACKS = {
    "zeros": (send_plain(bytes(300)), "not_tls"),
    "garbage": (send_plain(b"\xa5" + os.urandom(4000)), "not_tls"),
    "HTTP": (send_plain(b"GET / HTTP/1.1\r\nHost: cart.shop\r\n\r\n"), "not_tls"),
    "SSH": (send_plain(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "not_tls"),
    "a hello that never ends": (send_plain(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16_380)), "handshake_too_large"),
    "a broken hello": (send_plain(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), "tls_failure"),
    "an immediate end": (hang_up, "handshake_eof"),
    "silence": (stall, "timeout"),
    "dripping bytes": (drip, "timeout"),
    "TLS 1.2": (tls(own_leaf, newest=ssl.TLSVersion.TLSv1_2), "tls_version"),
    "no certificate": (tls(no_leaf), "no_certificate"),
    "another authority": (tls(foreign_leaf), "certificate_untrusted"),
    "an expired leaf": (tls(late_leaf), "certificate_expired"),
    "a leaf of tomorrow": (tls(early_leaf), "certificate_not_yet_valid"),
    "no server name": (tls(own_leaf, server_name="127.0.0.1"), "no_server_name"),
    "a meshlet of another node": (tls(own_leaf, server_name="web.shop.meshlet.mesh.local"), "unknown_server_name"),
    "a name of another kind": (tls(own_leaf, server_name="http.cart.shop"), "unknown_server_name"),
    "no protocol": (tls(own_leaf, alpn=()), "wrong_alpn"),
    "another protocol": (tls(own_leaf, alpn=("h2", "http/1.1")), "wrong_alpn"),
    "a replay": (replay, "tls_failure"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_stranger_is_refused_counted_and_named_in_the_log(mesh: Any, patience: Callable[..., Any], name: str) -> None:
    attack, reason = ATTACKS[name]
    counted = {"role": "server", "result": reason}
    before = mesh.metric("node-b", "meshless_tunnel_handshakes_total", **counted)
    logged = mesh.log("node-b").count(f"tunnel refused: {reason}: ")
    attack(mesh)
    patience(lambda: mesh.metric("node-b", "meshless_tunnel_handshakes_total", **counted) == before + 1, f"{reason} is counted")
    assert mesh.log("node-b").count(f"tunnel refused: {reason}: ") == logged + 1


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open as many connections as a flood takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_flood_of_silent_connections_is_bounded_and_locks_nobody_out(mesh: Any, patience: Callable[..., Any]) -> None:
    flood = 2000
    dropped = {"role": "server", "result": "too_many_unauthenticated"}
    before = mesh.metric("node-b", "meshless_tunnel_handshakes_total", **dropped)
    descriptors = mesh.descriptors("node-b")
    with contextlib.ExitStack() as stack:
        for number in range(flood):
            stack.enter_context(mesh.tcp())
            if number % 200 == 199:
                assert mesh.metric("node-b", "meshless_tunnel_sessions", state="authenticating") <= MAX_UNAUTHENTICATED
                # a quarter may be cut and not closed yet, and another be let in meanwhile; 8: whatever else goes on
                assert mesh.descriptors("node-b") <= descriptors + MAX_UNAUTHENTICATED * 3 // 2 + 8
                with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:  # a fresh handshake, in the midst of it
                    assert tunnel.open(mesh.request()).code is ReplyCode.OK
        patience(
            lambda: (
                mesh.metric("node-b", "meshless_tunnel_handshakes_total", **dropped)
                + mesh.metric("node-b", "meshless_tunnel_handshakes_total", role="server", result="timeout")
                >= before + flood - MAX_UNAUTHENTICATED
            ),
            "all but the last are cut",
        )
    assert mesh.metric("node-b", "meshless_tunnel_handshakes_total", **dropped) > before
    assert "tunnel refused: too_many_unauthenticated: agent.max_tunnels_unauthenticated of 32" in mesh.log("node-b")


def test_an_agent_without_a_free_descriptor_waits_and_goes_on(mesh: Any, patience: Callable[..., Any]) -> None:
    pid = mesh.pid("node-b")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        with mesh.tcp():
            patience(lambda: "cannot accept tunnels" in mesh.log("node-b"), "the agent says what it lacks")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


# --- after authentication ------------------------------------------------------------------------------------------------


def test_a_leaf_of_a_meshlet_without_permission_gets_a_tunnel_and_no_service(mesh: Any, patience: Callable[..., Any]) -> None:
    labels = {"reporter": "destination", "source_meshlet": "other", "reason": "policy", "flags": "access_denied"}
    before = mesh.metric("node-b", "meshless_connections_refused_total", **labels)
    with mesh.tunnel(mesh.context(mesh.leaf("other"))) as tunnel:
        # it also claims to speak for a pod that may: told is not proven
        reply = tunnel.open(mesh.request(source_pod=PodRef("shop", "web-0")))
        assert reply.code is ReplyCode.ACCESS_DENIED
        again = tunnel.open(mesh.request(source_pod=None))
        assert again.code is ReplyCode.ACCESS_DENIED
    assert mesh.metric("node-b", "meshless_connections_refused_total", **labels) == before + 2
    lines = patience(lambda: [e for e in mesh.access_log("node-b") if e.get("code") == "ACCESS_DENIED"], "the access log")
    assert "other" in str(lines[-1])


def test_a_tunnel_made_to_one_meshlet_does_not_lead_to_another(mesh: Any) -> None:
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:  # made to cart; web may use db too
        reply = tunnel.open(mesh.request("db", "sql"))
        assert reply.code is ReplyCode.ACCESS_DENIED
        assert "this tunnel was made to shop/cart, not to shop/db" in reply.reason
    with mesh.tunnel(mesh.context(mesh.leaf("web")), "db.shop.meshlet.mesh.local") as tunnel:
        assert tunnel.open(mesh.request("db", "sql")).code is ReplyCode.OK


def test_the_identity_is_the_leafs_whatever_the_preface_says(mesh: Any) -> None:
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        request = mesh.request(source_pod=PodRef("kube-system", "admin-0"))
        assert tunnel.open(request).code is ReplyCode.OK
        (live,) = mesh.connections("node-b")
        assert live["id"] == request.connection_id.hex()
        assert "shop/web" in str(live["source"])
        assert "kube-system" not in str(live["source"])


@pytest.mark.parametrize(
    "changes", [{"pod_uid": "somebody-elses"}, {"pod": PodRef("shop", "db-0")}, {"pod": PodRef("shop", "absent-0")}]
)
def test_a_pod_that_does_not_serve_is_no_endpoint(mesh: Any, changes: dict[str, Any]) -> None:
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        assert tunnel.open(mesh.request(**changes)).code is ReplyCode.NO_ENDPOINT


def frame(kind: int, payload: bytes = b"", *, size: int | None = None) -> bytes:
    return bytes((kind,)) + (len(payload) if size is None else size).to_bytes(3, "big") + payload


VIOLATIONS = {
    "an OPEN too long": frame(FrameType.OPEN, size=5000),
    "an OPEN of 16 MiB": frame(FrameType.OPEN, size=(1 << 24) - 1),
    "DATA before OPEN": frame(FrameType.DATA, b"hello"),
    "DATA too long": frame(FrameType.DATA, size=1 << 20),
    "FIN before OPEN": encode_fin(),
    "a server's frame": frame(FrameType.OPENED),
    "an unknown frame": frame(0x42, b"hello"),
    "an empty OPEN": frame(FrameType.OPEN),
    "an OPEN of version 9": frame(FrameType.OPEN, b"\x09"),
    "an OPEN of garbage": frame(FrameType.OPEN, b"\x01" + b"\x7f" * 200),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_who_breaks_the_protocol_inside_a_tunnel_is_cut_and_named_in_the_log(mesh: Any, name: str) -> None:
    logged = mesh.log("node-b").count("violated the tunnel protocol")
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        tunnel.tls.sendall(VIOLATIONS[name])
        assert tunnel.everything()[:1] == bytes((FrameType.RESET,))
    assert mesh.log("node-b").count("violated the tunnel protocol") == logged + 1
    assert "spiffe://mesh.local/ns/shop/meshlet/web" in mesh.log("node-b")


def test_two_opens_at_once_are_a_violation(mesh: Any) -> None:
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        tunnel.tls.sendall(encode_open(mesh.request()) * 2)
        assert bytes((FrameType.RESET, 0)) in tunnel.everything()


def test_bytes_that_are_not_of_the_session_end_it(mesh: Any) -> None:
    """Somebody on the cable puts bytes into the TCP stream of an authenticated session."""
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        assert tunnel.open(mesh.request()).code is ReplyCode.OK
        os.write(tunnel.tls.fileno(), b"\x17\x03\x03\x00\x20" + os.urandom(32))
        tunnel.everything()


@pytest.mark.parametrize("said", [b"", b"\x01\x00", frame(FrameType.OPEN, b"\x01\x01", size=200)], ids=["nothing", "2", "some"])
def test_a_session_that_never_finishes_a_request_is_closed(mesh: Any, said: bytes) -> None:
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        if said:
            tunnel.tls.sendall(said)
        tunnel.everything()  # raises if the agent waits for more


def test_a_reset_in_the_middle_of_a_connection_frees_everything(mesh: Any) -> None:
    with mesh.tunnel(mesh.context(mesh.leaf("web"))) as tunnel:
        assert tunnel.open(mesh.request()).code is ReplyCode.OK
        tunnel.tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_session_does_not_outlive_the_leaf_it_was_made_with(mesh: Any) -> None:
    """An attacker keeps a session busy with requests that fail, until the stolen leaf has expired."""
    lifetime = 2.0
    begin = time.time()
    leaf = mesh.leaf("web", lifetime=lifetime)
    expired = time.time() + lifetime
    with mesh.tunnel(mesh.context(leaf)) as tunnel:
        late = False
        with contextlib.suppress(AssertionError, ConnectionError):  # closed without a reply: the cut
            while not late:
                asked = time.time()
                assert tunnel.open(mesh.request(pod_uid="somebody-elses")).code is ReplyCode.NO_ENDPOINT
                late = asked > expired
        assert not late, "it was answered although its leaf had expired when it asked"
        assert time.time() >= begin + lifetime - 1.0  # a certificate's times are whole seconds
        assert tunnel.everything() == b""
    assert "asked for a connection after its leaf expired" in mesh.log("node-b")
