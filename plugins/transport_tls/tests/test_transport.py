from __future__ import annotations

import asyncio
import datetime
import select
import shutil
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from meshless_transport_tls.names import encode_server_name
from meshless_transport_tls.options import Options
from meshless_transport_tls.transport import TlsTransport

from meshless_core import Identity, TransportError

WEB = Identity("mesh.test", "shop", "web")
CART = Identity("mesh.test", "shop", "cart")
DB = Identity("mesh.test", "shop", "db")
HOUR = datetime.timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("no_leak")


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def authority(mesh: Any, issuer: Any, **options: Any) -> Any:
    return mesh.leaf(CART, ca=True, path_length=0, uris=options.pop("uris", []), **options)


# Each bad leaf: how it is made, and the reason the *other* side must give. `extra` is what follows it in the chain.
BAD_LEAVES: dict[str, tuple[Callable[[Any, Identity], Any], str]] = {
    "expired": (lambda mesh, who: mesh.leaf(who, not_before=now() - 2 * HOUR, not_after=now() - HOUR), "certificate_expired"),
    "not yet valid": (
        lambda mesh, who: mesh.leaf(who, not_before=now() + HOUR, not_after=now() + 2 * HOUR),
        "certificate_not_yet_valid",
    ),
    "wrong trust domain": (
        lambda mesh, who: mesh.leaf(who, uris=[Identity("other.test", who.namespace, who.meshlet).uri]),
        "wrong_trust_domain",
    ),
    "two URI names": (lambda mesh, who: mesh.leaf(who, uris=[who.uri, DB.uri]), "certificate_invalid"),
    "the same URI name twice": (lambda mesh, who: mesh.leaf(who, uris=[who.uri, who.uri]), "certificate_invalid"),
    "a DNS name beside": (lambda mesh, who: mesh.leaf(who, dns=["cart.shop"]), "certificate_invalid"),
    "no URI name": (lambda mesh, who: mesh.leaf(who, uris=[]), "certificate_invalid"),
    "a URI of another form": (lambda mesh, who: mesh.leaf(who, uris=["spiffe://mesh.test/cart"]), "certificate_invalid"),
    "authority used as leaf": (lambda mesh, who: mesh.leaf(who, ca=True, path_length=0), "certificate_invalid"),
    "no digital signature": (lambda mesh, who: mesh.leaf(who, digital_signature=False), "certificate_invalid"),
    "no extended key usage": (lambda mesh, who: mesh.leaf(who, usages=[]), "certificate_invalid"),
}


@pytest.mark.parametrize("name", BAD_LEAVES)
async def test_the_client_refuses_a_bad_server_leaf(mesh: Any, name: str) -> None:
    make, reason = BAD_LEAVES[name]
    mesh.server_source.hold(CART, make(mesh, CART), mesh.root.pem)
    connecting, accepting = await mesh.outcomes()
    assert isinstance(connecting, TransportError), connecting
    assert connecting.reason == reason
    if not isinstance(accepting, TransportError):
        accepting.close()


@pytest.mark.parametrize("name", BAD_LEAVES)
async def test_the_server_refuses_a_bad_client_leaf(mesh: Any, name: str) -> None:
    make, reason = BAD_LEAVES[name]
    mesh.client_source.hold(WEB, make(mesh, WEB), mesh.root.pem)
    connecting, accepting = await mesh.outcomes()
    assert isinstance(accepting, TransportError), accepting
    assert accepting.reason == reason
    await expect_cut(connecting)


async def expect_cut(stream: Any) -> None:
    """TLS 1.3 lets a client finish before the server has judged it: it learns in its first read."""
    if isinstance(stream, TransportError):
        return
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(stream.fileno(), readable.set)
    try:
        await asyncio.wait_for(readable.wait(), 20)
    finally:
        asyncio.get_running_loop().remove_reader(stream.fileno())
    try:
        seen: object = stream.readinto(memoryview(bytearray(10)))
    except TransportError as error:
        seen = error.reason
    except ConnectionResetError:
        seen = "reset"
    assert seen in (0, "peer_alert", "reset")
    stream.close()


async def test_the_wrong_meshlet_is_refused(mesh: Any) -> None:
    mesh.server_source.hold(CART, mesh.leaf(DB), mesh.root.pem)
    connecting, accepting = await mesh.outcomes()
    assert isinstance(connecting, TransportError)
    assert connecting.reason == "identity_mismatch"
    assert "shop/meshlet/db" in str(connecting)
    await expect_cut(accepting)


async def test_an_identity_further_up_the_chain_lends_nothing(mesh: Any) -> None:
    cart = mesh.leaf(CART)
    mesh.server_source.hold(CART, mesh.leaf(DB), mesh.root.pem, extra=cart.pem)
    connecting, accepting = await mesh.outcomes()
    assert isinstance(connecting, TransportError)
    assert connecting.reason == "identity_mismatch"
    await expect_cut(accepting)


async def test_an_identity_on_an_intermediate_lends_nothing(mesh: Any) -> None:
    middle = mesh.leaf(CART, ca=True, path_length=0)
    leaf = make_signed_by(middle, mesh)
    mesh.client_source.hold(WEB, leaf, mesh.root.pem, extra=middle.pem)
    connecting, accepting = await mesh.outcomes()
    assert isinstance(accepting, TransportError)
    assert accepting.reason == "certificate_invalid"
    await expect_cut(connecting)


def make_signed_by(issuer: Any, mesh: Any) -> Any:
    root, mesh.root = mesh.root, issuer
    try:
        return mesh.leaf(WEB, uris=[])
    finally:
        mesh.root = root


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("kind", ["other root", "self-signed"])
async def test_a_leaf_of_no_trusted_root_is_refused(mesh: Any, tmp_path: Any, side: str, kind: str) -> None:
    who = WEB if side == "client" else CART
    trusted = mesh.root
    if kind == "other root":
        other = type(mesh)(tmp_path)
        other.listener.close()
        leaf = other.leaf(who)
    else:
        mesh.root = None
        leaf = mesh.leaf(who)
        mesh.root = trusted
    getattr(mesh, f"{side}_source").hold(who, leaf, trusted.pem)
    connecting, accepting = await mesh.outcomes()
    judge, judged = (accepting, connecting) if side == "client" else (connecting, accepting)
    assert isinstance(judge, TransportError), judge
    assert judge.reason == "certificate_untrusted"
    await expect_cut(judged)


async def refused(mesh: Any) -> TransportError:
    """The error the server gives to whoever connects next."""
    with pytest.raises(TransportError) as caught:
        await asyncio.wait_for(mesh.accept(), 10)
    return caught.value


async def test_a_client_without_a_certificate_is_refused(mesh: Any) -> None:
    opening = asyncio.create_task(mesh.open_raw(mesh.raw_context(None)))
    assert (await refused(mesh)).reason == "no_certificate"
    await drain(opening, "certificate required|alert")


async def drain(opening: asyncio.Task[Any], alert: str) -> None:
    """The raw client is told why, by an alert."""

    async def read() -> None:
        reader, writer = await opening
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    with pytest.raises((ssl.SSLError, ConnectionResetError), match=f"(?i)({alert}|reset)"):
        await read()


async def test_tls_1_2_is_refused(mesh: Any) -> None:
    context = mesh.raw_context(mesh.leaf(WEB))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    opening = asyncio.create_task(mesh.open_raw(context))
    assert (await refused(mesh)).reason == "tls_version"
    await drain(opening, "protocol.version")


@pytest.mark.parametrize("protocols", [["http/1.1"], ["meshless/2", "h2"], []])
async def test_a_wrong_or_missing_application_protocol_is_refused(mesh: Any, protocols: list[str]) -> None:
    opening = asyncio.create_task(mesh.open_raw(mesh.raw_context(mesh.leaf(WEB), alpn=protocols)))
    assert (await refused(mesh)).reason == "wrong_alpn"
    await drain(opening, "no application protocol|alert|unknown")


async def test_the_client_insists_on_the_application_protocol_too(mesh: Any) -> None:
    found = mesh.server._contexts.get(CART, server=True)
    assert found is not None
    credentials, _ = found
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials.certificate_chain_path, credentials.private_key_path)
    mesh.server._contexts._cache[CART, True] = (credentials.serial, context)
    connecting, accepting = await mesh.outcomes()
    assert isinstance(connecting, TransportError)
    assert connecting.reason == "wrong_alpn"
    assert isinstance(accepting, TransportError)


async def test_a_client_that_names_no_target_is_refused(mesh: Any) -> None:
    opening = asyncio.create_task(mesh.open_raw(mesh.raw_context(mesh.leaf(WEB)), "127.0.0.1"))  # an address is never sent
    assert (await refused(mesh)).reason == "no_server_name"
    await drain(opening, "missing extension|alert|unknown")


@pytest.mark.parametrize(
    "name", [encode_server_name(DB), "cart.shop.meshlet.other.test", "localhost", "cart.shop.service.mesh.test"]
)
async def test_a_target_this_agent_does_not_have_is_refused(mesh: Any, name: str) -> None:
    opening = asyncio.create_task(mesh.open_raw(mesh.raw_context(mesh.leaf(WEB)), name))
    assert (await refused(mesh)).reason == "unknown_server_name"
    await drain(opening, "unrecognized.name")


async def test_a_leaf_that_is_on_its_way_is_waited_for(mesh: Any) -> None:
    leaf = mesh.server_source.held.pop(CART)
    looked = asyncio.Event()

    class Source:
        trust_domain = mesh.server_source.trust_domain

        def get(self, identity: Identity) -> Any:
            return mesh.server_source.get(identity)

        def expects(self, identity: Identity) -> bool:
            looked.set()
            return identity == CART

    mesh.server = TlsTransport(Options(), Source())
    opening = asyncio.create_task(mesh.pair())
    await looked.wait()
    mesh.server_source.held[CART] = leaf
    connecting, accepting = await opening
    assert (connecting.peer, accepting.peer) == (CART, WEB)
    connecting.close()
    accepting.close()


async def test_a_leaf_that_never_comes_is_told_in_time(mesh: Any) -> None:
    mesh.server_source.held.clear()
    mesh.server_source.expected.add(CART)
    mesh.server = TlsTransport(Options(handshake_timeout=0.2), mesh.server_source)
    connecting, accepting = await mesh.outcomes()
    assert (connecting.reason, accepting.reason) == ("peer_alert", "unknown_server_name")


async def test_the_client_sees_the_servers_alert_by_name(mesh: Any) -> None:
    connecting, accepting = await mesh.outcomes(target=DB)
    assert isinstance(connecting, TransportError)
    assert (connecting.reason, accepting.reason) == ("peer_alert", "unknown_server_name")
    assert "unrecognized name" in str(connecting)


async def raw_connection(mesh: Any) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, mesh.listener.getsockname())
    return connection


@pytest.mark.parametrize("moment", ["connecting", "accepting"])
async def test_cancelling_leaks_nothing(mesh: Any, moment: str) -> None:
    stalling = await raw_connection(mesh) if moment == "accepting" else None
    task = asyncio.create_task(mesh.connect() if stalling is None else mesh.server.accept(mesh.listener.accept()[0]))
    for _ in range(5):
        await asyncio.sleep(0)
    if stalling is None:
        await asyncio.get_running_loop().run_in_executor(None, select.select, [mesh.listener], [], [], 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if stalling is not None:
        stalling.close()
    else:
        mesh.listener.accept()[0].close()


async def test_cancelling_at_every_step_leaks_nothing(mesh: Any) -> None:
    for steps in range(1, 40):  # a task cancelled before its first step never runs, so it owns nothing yet
        connecting = asyncio.create_task(mesh.connect())
        while not select.select([mesh.listener], [], [], 0)[0]:
            await asyncio.sleep(0)
        tasks = [connecting, asyncio.create_task(mesh.server.accept(mesh.listener.accept()[0]))]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                outcome.close()


async def test_nothing_listening_is_connect_failed(mesh: Any) -> None:
    address = mesh.address
    mesh.listener.close()
    with pytest.raises(TransportError, match="refused") as caught:
        await mesh.client.connect(address, source=WEB, target=CART)
    assert caught.value.reason == "connect_failed"


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", "127.0.0.1:", ":80", "::1:80", "127.0.0.1:0", "127.0.0.1:70000", "host:http"]
)
async def test_a_bad_address_is_named(mesh: Any, address: str) -> None:
    with pytest.raises(TransportError, match="not an agent's address") as caught:
        await mesh.client.connect(address, source=WEB, target=CART)
    assert caught.value.reason == "bad_address"


async def test_a_name_that_does_not_resolve_is_connect_failed(mesh: Any) -> None:
    with pytest.raises(TransportError, match="resolve") as caught:
        await mesh.client.connect("no-such-host.invalid:1", source=WEB, target=CART)
    assert caught.value.reason == "connect_failed"


@pytest.mark.parametrize(("host", "written"), [("::1", "[::1]"), ("127.0.0.1", "localhost")])
async def test_ipv6_and_names_work(mesh: Any, host: str, written: str) -> None:
    mesh.listener.close()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    mesh.listener = socket.create_server((host, 0), family=family)
    mesh.listener.setblocking(False)
    address = f"{written}:{mesh.listener.getsockname()[1]}"
    client, server = await asyncio.gather(mesh.client.connect(address, source=WEB, target=CART), mesh.accept())
    assert server.peer == WEB
    client.close()
    server.close()


async def test_an_agent_without_a_leaf_for_the_source_says_so(mesh: Any) -> None:
    with pytest.raises(TransportError, match="holds no valid leaf") as caught:
        await mesh.client.connect(mesh.address, source=DB, target=CART)
    assert caught.value.reason == "no_credentials"


async def test_a_target_of_another_trust_domain_is_not_dialled(mesh: Any) -> None:
    with pytest.raises(TransportError) as caught:
        await mesh.client.connect(mesh.address, source=WEB, target=Identity("other.test", "shop", "cart"))
    assert caught.value.reason == "wrong_trust_domain"


async def test_our_own_look_at_validity_uses_the_given_clock(mesh: Any) -> None:
    mesh.client = TlsTransport(Options(), mesh.client_source, clock=lambda: (now() + 3 * HOUR).timestamp())
    connecting, accepting = await mesh.outcomes()
    assert isinstance(connecting, TransportError)
    assert connecting.reason == "certificate_expired"
    await expect_cut(accepting)


async def test_renewed_credentials_are_presented_by_new_sessions_only(mesh: Any) -> None:
    old_client, old_server = await mesh.pair()
    mesh.server_source.hold(CART, mesh.leaf(CART), mesh.root.pem)
    new_client, new_server = await mesh.pair()
    assert new_server.serial != old_server.serial
    assert new_client._tls.getpeercert(True) != old_client._tls.getpeercert(True)
    old_client.write(b"still here")
    assert old_client.flush()
    for stream in (old_client, old_server, new_client, new_server):
        stream.close()


async def test_a_peer_under_the_old_root_is_accepted_while_both_are_trusted(mesh: Any) -> None:
    old = mesh.root
    new_mesh_root = type(mesh)(mesh.directory)
    new_mesh_root.listener.close()
    both = new_mesh_root.root.pem + old.pem
    mesh.server_source.hold(CART, new_mesh_root.leaf(CART), both)
    mesh.client_source.hold(WEB, mesh.leaf(WEB), both)
    client, server = await mesh.pair()
    client.close()
    server.close()


async def test_credentials_that_cannot_be_loaded_say_which_file(mesh: Any) -> None:
    credentials = mesh.client_source.hold(WEB, mesh.leaf(WEB), mesh.root.pem)
    with open(credentials.private_key_path, "w") as file:
        file.write("nothing")
    with pytest.raises(TransportError, match=r"\.crt cannot be loaded") as caught:
        await mesh.connect()
    assert caught.value.reason == "no_credentials"


async def test_dead_peers_are_noticed_and_small_packets_leave_at_once(mesh: Any) -> None:
    for stream in await mesh.pair():
        option = stream._socket.getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        idle, interval, count = (
            option(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 60
        stream.close()


async def openssl(mesh: Any, *arguments: str) -> tuple[TransportError | None, str]:
    """Run `openssl s_client` against the server; what the server said about it, and what it said itself."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", mesh.address, "-brief", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    problem = None
    try:
        (await mesh.accept()).close()
    except TransportError as error:
        problem = error
    output, _ = await process.communicate()
    return problem, output.decode()


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")


@needs_openssl
async def test_a_real_openssl_client_with_a_good_leaf_gets_in(mesh: Any) -> None:
    credentials = mesh.client_source.get(WEB)
    problem, output = await openssl(
        mesh, "-servername", encode_server_name(CART), "-alpn", "meshless/1",
        "-cert", credentials.certificate_chain_path, "-key", credentials.private_key_path,
    )  # fmt: skip
    assert problem is None, output
    assert "TLSv1.3" in output


@needs_openssl
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-noservername", "-alpn", "meshless/1"], "no_server_name"),
        (["-servername", encode_server_name(CART)], "wrong_alpn"),
        (["-servername", encode_server_name(CART), "-alpn", "meshless/1", "-tls1_2"], "tls_version"),
        (["-servername", encode_server_name(CART), "-alpn", "meshless/1"], "no_certificate"),
    ],
)
async def test_a_curious_openssl_client_is_refused(mesh: Any, arguments: list[str], reason: str) -> None:
    problem, _ = await openssl(mesh, *arguments)
    assert problem is not None
    assert problem.reason == reason
