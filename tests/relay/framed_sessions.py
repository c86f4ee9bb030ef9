"""Two framed sessions that belong together, and the ends of the connections through them."""

import asyncio
import socket

from meshless_core.relay.framed import FramedSession
from meshless_core.tunnel import OpenReply, OpenRequest
from meshless_core.types import PodRef, ReplyCode, ServiceId

REQUEST = OpenRequest(
    connection_id=bytes(range(16)),
    service=ServiceId("http", "cart", "shop"),
    pod=PodRef("shop", "cart-1"),
    pod_uid="uid-1",
    version="v1",
    source_pod=PodRef("shop", "web-1"),
    deadline_ms=5000,
)


def soon():
    return asyncio.get_running_loop().create_future()


async def wait(future):
    return await asyncio.wait_for(future, 10)


class Sessions:
    """Two sessions that belong together; `end` opens a connection through both and gives the ends to the test."""

    def __init__(self, reactor, pair, streams):
        self.pair = pair
        self.client_lost: list[str] = []
        self.server_lost: list[str] = []
        self.client = FramedSession(reactor, streams[0], role="client", on_lost=self.client_lost.append)
        self.server = FramedSession(reactor, streams[1], role="server", on_lost=self.server_lost.append)
        self.requests: asyncio.Queue[OpenRequest] = asyncio.Queue()
        self.server.serve(self.requests.put_nowait)

    async def connect(self, *, kind="unix", early=b"", idle_timeout=None):
        replied = soon()
        self.client.open(REQUEST, replied.set_result)
        assert await wait(self.requests.get()) == REQUEST
        assert (self.client.state, self.server.state) == ("opening", "opening")
        self.server.reply(OpenReply(ReplyCode.OK))
        ends = Ends(self, kind, "service", self.server, b"", idle_timeout)
        assert await wait(replied) == OpenReply(ReplyCode.OK)
        return Ends(self, kind, "client", self.client, early, idle_timeout), ends

    def close(self):
        self.client.close()
        self.server.close()


class Ends:
    """One agent's side of a connection: the application's end, the relay, its result."""

    def __init__(self, sessions, kind, side, session, early, idle_timeout):
        self.side = side
        self.end, near = sessions.pair(kind)
        self.end.setblocking(False)
        self.result = soon()
        self.near = near
        self.relay = session.relay(
            near, early=early, idle_timeout=idle_timeout, on_close=lambda *result: self.result.set_result(result)
        )

    async def send(self, data):
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.end, data), 20)

    async def receive(self, size=None):
        loop, parts, left = asyncio.get_running_loop(), [], size
        while left is None or left:
            part = await asyncio.wait_for(loop.sock_recv(self.end, min(left or 1 << 18, 1 << 18)), 20)
            if not part:
                assert left is None, f"end-of-file with {left} bytes missing"
                break
            parts.append(part)
            if left is not None:
                left -= len(part)
        return b"".join(parts)

    def finish(self):
        self.end.shutdown(socket.SHUT_WR)

    async def over(self):
        result, reusable = await wait(self.result)
        assert self.relay.closed
        assert self.near.fileno() == -1
        return result, reusable


async def end_cleanly(client, service):
    client.finish()
    service.finish()
    assert await client.receive() == await service.receive() == b""
    return await client.over(), await service.over()
