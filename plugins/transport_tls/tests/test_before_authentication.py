"""Whoever reaches the port: bounded in bytes, time and number before anybody is known."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
from meshless_transport_tls.names import encode_server_name
from meshless_transport_tls.options import Options
from meshless_transport_tls.transport import TlsTransport

from meshless_core import Identity, TransportError

WEB = Identity("mesh.test", "shop", "web")
CART = Identity("mesh.test", "shop", "cart")


async def refused(mesh: Any) -> TransportError:
    """The error the server gives to whoever connects next."""
    with pytest.raises(TransportError) as caught:
        await asyncio.wait_for(mesh.accept(), 10)
    return caught.value


async def raw_connection(mesh: Any) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, mesh.listener.getsockname())
    return connection


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n", "not_tls"),
        (b"\x00" * 100, "not_tls"),
        (b"\x16\x03\x01\x00\x00", "not_tls"),
        (b"\x16\x02\x00\x00\x05hello", "not_tls"),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", "not_tls"),
        (b"\x16\x03\x01\xff\xff" + b"\x01" * 100, "handshake_too_large"),
        (b"\x16\x03\x01\x00\x04\x01\x01\x00\x00", "handshake_too_large"),
        (b"\x16\x03\x01\x00\x01\x01" * 4000, "handshake_too_large"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "tls_failure"),
    ],
)
async def test_bytes_that_are_no_client_hello_are_refused(mesh: Any, sent: bytes, reason: str) -> None:
    connection = await raw_connection(mesh)
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(connection, sent))
    assert (await refused(mesh)).reason == reason
    await asyncio.gather(sending, return_exceptions=True)
    connection.close()


async def test_a_huge_client_hello_is_refused_before_it_is_complete(mesh: Any) -> None:
    connection = await raw_connection(mesh)
    loop = asyncio.get_running_loop()
    # One record of 16 KiB is announced: with its header that is more than the limit.
    await loop.sock_sendall(connection, b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
    assert (await refused(mesh)).reason == "handshake_too_large"
    assert (await loop.sock_recv(connection, 100))[:7] == bytes((21, 3, 3, 0, 2, 2, 22))  # record_overflow
    connection.close()


async def test_a_peer_that_floods_after_its_client_hello_is_refused(mesh: Any) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = mesh.raw_context(mesh.leaf(WEB)).wrap_bio(incoming, outgoing, server_hostname=encode_server_name(CART))
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    connection = await raw_connection(mesh)
    flood = outgoing.read() + b"\x14\x03\x03\x00\x01\x01" * 10_000  # change_cipher_spec records, which mean nothing
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(connection, flood))
    assert (await refused(mesh)).reason in {"handshake_too_large", "tls_failure"}
    await asyncio.gather(sending, return_exceptions=True)
    connection.close()


async def test_an_immediate_close_is_refused(mesh: Any) -> None:
    connection = await raw_connection(mesh)
    connection.close()
    assert (await refused(mesh)).reason == "handshake_eof"


async def test_a_reset_during_the_handshake_is_refused(mesh: Any) -> None:
    connection = await raw_connection(mesh)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    assert (await refused(mesh)).reason == "handshake_eof"


async def test_a_peer_that_stalls_is_cut_at_the_deadline(mesh: Any) -> None:
    mesh.server = TlsTransport(Options(handshake_timeout=0.05), mesh.server_source)
    connection = await raw_connection(mesh)
    await asyncio.get_running_loop().sock_sendall(connection, b"\x16\x03\x01")
    assert (await refused(mesh)).reason == "timeout"
    connection.close()


async def test_a_peer_that_drips_bytes_is_cut_at_the_deadline(mesh: Any) -> None:
    mesh.server = TlsTransport(Options(handshake_timeout=0.1), mesh.server_source)
    connection = await raw_connection(mesh)

    async def drip() -> None:
        for byte in b"\x16\x03\x01\x20\x00\x01" + bytes(8000):
            await asyncio.get_running_loop().sock_sendall(connection, bytes([byte]))
            await asyncio.sleep(0.001)

    dripping = asyncio.create_task(drip())
    assert (await refused(mesh)).reason == "timeout"
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    connection.close()


async def test_a_server_that_never_answers_is_given_up_at_the_deadline(mesh: Any) -> None:
    mesh.client = TlsTransport(Options(handshake_timeout=0.05), mesh.client_source)
    with pytest.raises(TransportError) as caught:
        await mesh.connect()
    assert caught.value.reason == "timeout"
    mesh.listener.accept()[0].close()


async def test_a_server_that_speaks_no_tls_is_refused(mesh: Any) -> None:
    async def greet() -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(mesh.listener)
        with connection:
            await asyncio.get_running_loop().sock_sendall(connection, b"220 mail.example.org ESMTP\r\n")
            await asyncio.get_running_loop().sock_recv(connection, 4096)

    greeting = asyncio.create_task(greet())
    with pytest.raises(TransportError) as caught:
        await mesh.connect()
    assert caught.value.reason == "not_tls"
    await greeting


async def test_too_many_pending_handshakes_are_refused(mesh: Any) -> None:
    mesh.server = TlsTransport(Options(max_pending_handshakes=1), mesh.server_source)
    stalling, second = await raw_connection(mesh), await raw_connection(mesh)
    first = asyncio.create_task(mesh.accept())
    await asyncio.sleep(0)
    while not mesh.server._accepting:
        await asyncio.sleep(0)
    assert (await refused(mesh)).reason == "overloaded"
    stalling.close()
    with pytest.raises(TransportError):
        await first
    second.close()
    client, server = await mesh.pair()
    client.close()
    server.close()
