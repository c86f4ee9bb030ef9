"""A relay between two sockets with the applications' ends in the test's hands."""

import asyncio
from typing import Any

from meshless_core.relay.plain import relay_plain


class Connection:
    """A relay between two ends, with the far ends in the test's hands."""

    def __init__(self, reactor, pair, client_kind="unix", service_kind="unix", **options):
        self.client, near_client = pair(client_kind)
        self.service, near_service = pair(service_kind)
        for end in (self.client, self.service):
            end.setblocking(False)
        self.result = asyncio.get_running_loop().create_future()
        options.setdefault("idle_timeout", None)
        self.near = near_client, near_service
        self.relay: Any = relay_plain(reactor, near_client, near_service, on_close=self.result.set_result, **options)

    async def over(self):
        result = await asyncio.wait_for(self.result, 10)
        assert self.relay.closed
        assert all(end.fileno() == -1 for end in self.near)
        return result


async def send(end, data):
    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(end, data), 20)


async def receive(end, size=None):
    """Exactly `size` bytes, or everything up to end-of-file."""
    loop, parts, left = asyncio.get_running_loop(), [], size
    while left is None or left:
        part = await asyncio.wait_for(loop.sock_recv(end, min(left or 1 << 18, 1 << 18)), 20)
        if not part:
            assert left is None, f"end-of-file with {left} bytes missing"
            break
        parts.append(part)
        if left is not None:
            left -= len(part)
    return b"".join(parts)


async def fill(end):
    """Send until the kernel takes no more, and the relay had time to take what it wants; bytes sent."""
    total, idle = 0, 0
    block = bytes(65536)
    while idle < 50:
        try:
            total += end.send(block)
            idle = 0
        except BlockingIOError:
            idle += 1
            await asyncio.sleep(0)
    return total
