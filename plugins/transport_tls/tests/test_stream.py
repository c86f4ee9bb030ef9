from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
from typing import Any

import pytest
from meshless_transport_tls.names import encode_server_name

from meshless_core import LocalProtocolError, TransportError
from meshless_core.testing.transport import check_transport

CART_NAME = "cart.shop.meshlet.mesh.test"


def wait_readable(stream: Any) -> None:
    poller = select.poll()
    poller.register(stream.fileno(), select.POLLIN)
    assert poller.poll(5000)


async def test_streams_keep_the_contract(mesh: Any, no_leak: None) -> None:
    await check_transport(mesh.pair)


async def test_a_stream_tells_who_is_on_which_side(mesh: Any) -> None:
    client, server = await mesh.pair()
    assert (str(client.local), str(client.peer)) == (
        "spiffe://mesh.test/ns/shop/meshlet/web",
        "spiffe://mesh.test/ns/shop/meshlet/cart",
    )
    assert (client.peer, client.local) == (server.local, server.peer)
    assert client.serial == mesh.client_source.get(client.local).serial
    assert server.serial == mesh.server_source.get(server.local).serial
    assert encode_server_name(client.peer) == CART_NAME
    client.close()
    server.close()
    assert "closed" in repr(client)


async def test_it_is_tls_1_3_without_resumption(mesh: Any) -> None:
    client, server = await mesh.pair()
    assert client._tls.version() == server._tls.version() == "TLSv1.3"
    client_session = client._tls.session
    assert client_session is None or not client_session.has_ticket
    client.close()
    server.close()


async def test_a_full_buffer_with_a_record_behind_it_is_pending(mesh: Any) -> None:
    client, server = await mesh.pair()
    for block in (b"a" * 100, b"b" * 100):
        client.write(block)
    assert client.flush()
    wait_readable(server)
    buffer = memoryview(bytearray(100))
    assert server.readinto(buffer) == 100
    assert server.pending()
    assert server.readinto(buffer) == 100
    assert bytes(buffer) == b"b" * 100
    assert not server.pending()
    client.close()
    server.close()


async def test_half_a_record_is_not_pending(mesh: Any) -> None:
    client, server = await mesh.pair()
    client.write(b"a" * 100)
    client.write(b"b" * 5000)
    record = client._outgoing.read()
    client._socket.sendall(record[:3000])
    wait_readable(server)
    buffer = memoryview(bytearray(100))
    assert server.readinto(buffer) == 100
    assert not server.pending()
    assert server.readinto(buffer) is None
    client._socket.sendall(record[3000:])
    wait_readable(server)
    assert server.readinto(buffer) == 100
    assert server.pending()
    client.close()
    server.close()


async def test_a_reset_arrives_as_oserror(mesh: Any) -> None:
    client, server = await mesh.pair()
    client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client._socket.close()
    wait_readable(server)
    with pytest.raises(ConnectionResetError):
        server.readinto(memoryview(bytearray(10)))
    with pytest.raises(ConnectionResetError):
        server.write(b"x")
    server.close()
    client.close()


async def test_tampered_ciphertext_breaks_the_stream(mesh: Any) -> None:
    client, server = await mesh.pair()
    client.write(b"pay 1 to cart")
    record = bytearray(client._outgoing.read())
    record[-1] ^= 1
    client._socket.sendall(record)
    wait_readable(server)
    buffer = memoryview(bytearray(100))
    with pytest.raises(TransportError) as caught:
        server.readinto(buffer)
    assert caught.value.reason == "tls_failure"
    with pytest.raises(TransportError):
        server.readinto(buffer)
    wait_readable(client)
    with pytest.raises(TransportError, match="bad record mac") as told:
        client.readinto(buffer)
    assert told.value.reason == "peer_alert"
    client.close()
    server.close()


async def test_plaintext_behind_the_handshake_breaks_the_stream(mesh: Any) -> None:
    client, server = await mesh.pair()
    client._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    wait_readable(server)
    with pytest.raises(TransportError):
        server.readinto(memoryview(bytearray(100)))
    client.close()
    server.close()


async def test_reads_after_end_of_file_without_goodbye_give_0(mesh: Any) -> None:
    client, server = await mesh.pair()
    client._socket.shutdown(socket.SHUT_WR)
    wait_readable(server)
    assert server.readinto(memoryview(bytearray(10))) == 0
    assert server.readinto(memoryview(bytearray(10))) == 0
    client.close()
    server.close()


async def test_an_end_behind_data_is_pending_until_it_is_told(mesh: Any) -> None:
    client, server = await mesh.pair()
    client.write(b"bye")
    client.close()
    wait_readable(server)
    buffer = memoryview(bytearray(3))
    assert server.readinto(buffer) == 3
    if not server.pending():
        wait_readable(server)
    assert server.readinto(buffer) == 0
    assert not server.pending()
    server.close()


async def test_an_empty_buffer_is_a_mistake_of_the_caller(mesh: Any) -> None:
    client, server = await mesh.pair()
    with pytest.raises(LocalProtocolError):
        client.readinto(memoryview(b""))
    client.close()
    server.close()


async def test_several_writes_leave_in_one_packet(mesh: Any) -> None:
    client, server = await mesh.pair()
    for _ in range(10):
        assert client.write(b"x" * 10) == 10
    assert client.flush()
    wait_readable(server)
    arrived = server._socket.recv(65536, socket.MSG_PEEK)
    assert len(arrived) == 10 * (10 + 22)  # RFC 8446, 5.2: header 5, content type 1, tag 16
    client.close()
    server.close()


async def test_one_receive_is_decrypted_in_one_piece(mesh: Any) -> None:
    """Whatever part of a record it begins or ends with: nothing is left for a second, small read."""
    client, server = await mesh.pair()
    sent, received, buffer = os.urandom(10 * 192 * 1024), bytearray(), memoryview(bytearray(208 * 1024))
    left = memoryview(sent)
    while len(received) < len(sent):
        if left and client.flush() and (taken := client.write(left)):
            left = left[taken:]
            client.flush()
        count = server.readinto(buffer)
        if count is None:
            if not left:
                client.flush()
                wait_readable(server)
            continue
        received += buffer[:count]
        assert not server.pending()
    assert received == sent
    client.close()
    server.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
async def test_key_updates_of_a_real_openssl_client_are_answered(mesh: Any) -> None:
    leaf = mesh.leaf(next(iter(mesh.client_source.held)))
    credentials = mesh.client_source.hold(next(iter(mesh.client_source.held)), leaf, mesh.root.pem)
    client = subprocess.Popen(
        [
            "openssl", "s_client", "-connect", mesh.address, "-servername", CART_NAME, "-alpn", "meshless/1",
            "-quiet", "-no_ign_eof",
            "-cert", credentials.certificate_chain_path, "-key", credentials.private_key_path,
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    server = await mesh.accept()
    for word in (b"before\n", b"after\n"):
        client.stdin.write(word)
        client.stdin.flush()
        buffer = memoryview(bytearray(100))
        while (count := server.readinto(buffer)) is None:
            wait_readable(server)
        assert bytes(buffer[:count]) == word
        client.stdin.write(b"K\n")  # s_client: update the keys, and ask the peer to update its own
        client.stdin.flush()
        wait_readable(server)
        assert server.readinto(buffer) is None
        server.write(b"heard\n")
        assert server.flush()
        assert client.stdout.readline() == b"heard\n"
    server.close()
    client.stdin.close()
    assert client.wait(5) == 0
    client.stdout.close()
