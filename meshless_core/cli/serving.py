"""Accept connections and serve each in a task of its own, until told to stop: what `forward` and `listen` share."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["serve_until_stopped"]

_LOG = logging.getLogger(__name__)
_PAUSE_WITHOUT_DESCRIPTORS: Final = 0.1
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def serve_until_stopped(
    listener: socket.socket,
    serve: Callable[[socket.socket], Awaitable[None]],
    *,
    max_connections: int,
    ready: Callable[[], None],
) -> None:
    """Accept and serve until SIGINT or SIGTERM, then cancel what still runs and return.

    Args:
        listener: non-blocking; stays open.
        serve: serves one connection, owns and closes it, also when cancelled.
        max_connections: served at a time; more wait in the listener's backlog.
        ready: called once from when on a signal ends it in order; the moment to tell people.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    accepting = asyncio.create_task(_accept(listener, serve, tasks, asyncio.Semaphore(max_connections)))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, accepting.cancel)
    try:
        ready()
        await asyncio.wait([accepting])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        for task in [accepting, *tasks]:
            task.cancel()
        await asyncio.gather(accepting, *tasks, return_exceptions=True)
    if not accepting.cancelled():
        accepting.result()


async def _accept(
    listener: socket.socket,
    serve: Callable[[socket.socket], Awaitable[None]],
    tasks: set[asyncio.Task[None]],
    places: asyncio.Semaphore,
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await places.acquire()
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            places.release()
            if error.errno not in _SHORTAGES:
                if isinstance(error, ConnectionError):
                    continue  # it was gone before we took it
                raise
            _LOG.warning("cannot accept, trying again: %s", error.strerror)
            await asyncio.sleep(_PAUSE_WITHOUT_DESCRIPTORS)
            continue
        task = asyncio.create_task(_serve(connection, serve))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: places.release())


async def _serve(connection: socket.socket, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
    try:
        await serve(connection)
    except Exception:  # noqa: BLE001 - one connection must not take the others down
        _LOG.exception("serving a connection failed: a bug in meshless, please report it")
    finally:
        connection.close()
