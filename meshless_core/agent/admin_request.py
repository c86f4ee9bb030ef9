"""One GET to an agent's admin endpoint: what the command line asks with, and an agent its own workers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import h11

__all__ = ["admin_get"]

_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024


async def admin_get(address: str, target: str) -> tuple[int, bytes]:
    """Status and body.

    Args:
        address: `unix:<path>` or `tcp:<host>:<port>`.
        target: path and query.

    Raises:
        OSError: nobody answers.
        h11.ProtocolError: not in HTTP.
        ValueError: the address is none, or the answer is larger than 64 MiB.
    """
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    else:
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=target, headers=[("Host", "agent"), ("Connection", "close")])
        writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        status, body = 0, bytearray()
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > _MAX_ANSWER_BYTES:
                    raise ValueError("answer too large")
        return status, bytes(body)
    finally:
        writer.close()
