"""Dials as a client that can receive a descriptor, with the sans-IO side of the plugin and plain sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import attrs
from meshless_handshake_v2 import ClientHandshake, ClientLease, Established, Notice, Refused

from meshless_core import HandshakeRequest, ServiceId

HTTP = ServiceId("http", "cart", "shop")
OFFER = ClientHandshake(HandshakeRequest(HTTP, accepts_descriptor=True)).request


@attrs.define(eq=False)
class HandedOver:
    """A connection that does not pass through the agent, and its lease."""

    answer: Established
    service: socket.socket
    lease: socket.socket
    notices: ClientLease = attrs.field(factory=ClientLease)

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.service, data)

    async def hear(self, size: int) -> bytes:
        return await receive(self.service, size)

    async def next_notices(self) -> list[Notice]:
        """The notices in what comes next on the lease; none at its end."""
        async with asyncio.timeout(10):
            return self.notices.receive_data(await asyncio.get_running_loop().sock_recv(self.lease, 65536))

    def close(self) -> None:
        self.service.close()
        self.lease.close()


async def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, fewer at the end."""
    data = b""
    async with asyncio.timeout(15):
        while len(data) < size and (part := await asyncio.get_running_loop().sock_recv(connection, size - len(data))):
            data += part
    return data


async def dial(
    mesh: Any, pod: str = "web-0", behind: bytes = b"", **wishes: Any
) -> tuple[Established | Refused, socket.socket]:
    """The verdict, read without one byte of the application's, of a client that offers to receive a descriptor."""
    wishes.setdefault("accepts_descriptor", True)
    handshake = ClientHandshake(HandshakeRequest(HTTP, **wishes))
    client = await mesh.open(pod, handshake.request + behind)
    return await verdict(handshake, client), client


async def verdict(handshake: ClientHandshake, client: socket.socket) -> Established | Refused:
    """Read the reply and nothing behind it."""
    async with asyncio.timeout(15):
        while (answer := handshake.receive_data(await asyncio.get_running_loop().sock_recv(client, handshake.wanted))) is None:
            pass
    return answer


async def hand_over(mesh: Any, pod: str = "web-0") -> HandedOver:
    """Dial, and insist on being handed the socket."""
    answer, lease = await dial(mesh, pod)
    assert isinstance(answer, Established), answer
    assert answer.descriptor_follows
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(lease, readable.set)
    try:
        async with asyncio.timeout(10):
            await readable.wait()
    finally:
        loop.remove_reader(lease)
    data, descriptors, flags, _ = socket.recv_fds(lease, 1, 4)
    assert (data, len(descriptors), flags & socket.MSG_CTRUNC) == (b"\0", 1, 0)
    return HandedOver(answer, socket.socket(fileno=descriptors[0]), lease)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server's handler."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def until(condition: Callable[[], object], seconds: float = 4.0) -> None:
    """Poll until `condition` is true: of itself that takes milliseconds, and every timer that could help takes longer."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
