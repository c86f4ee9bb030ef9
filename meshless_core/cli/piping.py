"""Join two stream sockets: bytes, half-close and reset go through, in both directions.

One buffer per direction and no queue behind it: a sink that does not take bytes stops the reading of its source.
This is for the command line, where a few connections pass; the agent's data path is `meshless_core.relay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

import attrs

__all__ = ["Piped", "pipe", "reset"]

_BUFFER_BYTES: Final = 64 * 1024


@attrs.frozen
class Piped:
    """How it ended.

    Attributes:
        clean: both directions ended with end-of-file and everything was delivered; else both ends were reset.
        sent: bytes from the first end to the second.
        received: bytes from the second end to the first.
    """

    clean: bool
    sent: int
    received: int


class _SinkGone(Exception):  # noqa: N818 - an outcome of one direction, never leaves this module
    """The sink takes no more bytes; what it sent itself may still be on its way."""


class _Direction:
    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source = source
        self._sink = sink
        self.moved = 0

    async def run(self) -> None:
        """Move bytes until end-of-file, and pass that on.

        Raises:
            _SinkGone: the sink was closed.
            ConnectionError: the source was reset.
        """
        loop = asyncio.get_running_loop()
        buffer = bytearray(_BUFFER_BYTES)
        view = memoryview(buffer)
        while size := await loop.sock_recv_into(self._source, buffer):
            try:
                await loop.sock_sendall(self._sink, view[:size])
            except OSError as error:
                raise _SinkGone from error
            self.moved += size
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _SinkGone from error


async def pipe(first: socket.socket, second: socket.socket) -> Piped:
    """Join two connected, non-blocking sockets until both directions ended; closes both, also when cancelled.

    A reset of one end resets the other. If one end takes no more bytes, what it sent before is still delivered, and
    then the other end is reset, so that it does not believe that everything arrived.
    """
    there, back = _Direction(first, second), _Direction(second, first)
    tasks = [asyncio.create_task(there.run()), asyncio.create_task(back.run())]
    clean = False
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.done() and isinstance(task.exception(), _SinkGone) for task in tasks):
            await asyncio.wait(tasks)
        clean = all(task.done() and task.exception() is None for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (first, second):
            end.close() if clean else reset(end)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError | _SinkGone):
            raise error
    return Piped(clean, there.moved, back.moved)


def reset(end: socket.socket) -> None:
    """Close so that the peer sees a reset where the kernel can show one.

    TCP: always. A Unix socket: if the peer's bytes were not all read, else it sees end-of-file and a broken pipe on write.
    """
    if end.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # the peer was faster
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
