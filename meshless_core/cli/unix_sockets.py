"""Unix sockets at any path: connect to one, listen on one.

Paths longer than the 107 bytes of a socket address go through `/proc/self/fd`. A socket to listen on appears at its path
atomically: bound under another name, given its mode, set listening, then renamed; so nobody ever meets one that refuses. The
Python SDK does the same in code of its own, because it must not depend on this distribution.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["address_of", "connect_unix", "listen_unix"]

_MAX_ADDRESS_BYTES: Final = 107
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


@contextlib.contextmanager
def address_of(path: str, beside: str = "") -> Iterator[str]:
    """An address for `bind` or `connect` that means `path`, of whatever length; valid inside the block.

    Args:
        path: path of a socket.
        beside: another name in the same folder that is meant instead of the last part of `path`.

    Raises:
        OSError: `path` is too long for an address, and its folder cannot be opened.
    """
    folder, name = os.path.split(os.path.abspath(path))
    whole = os.path.join(folder, beside or name)
    if len(os.fsencode(whole)) <= _MAX_ADDRESS_BYTES:
        yield whole
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{beside or name}"
    finally:
        os.close(descriptor)


async def connect_unix(path: str, *, timeout: float) -> socket.socket:
    """Connect a non-blocking stream socket, trying again for `timeout` seconds while the backlog is full.

    Not `loop.sock_connect`: a Unix socket that has to wait for the backlog gives EAGAIN and never becomes writable, and asyncio
    would take it for connected.

    Raises:
        OSError: cannot connect; EAGAIN if the backlog stayed full.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    try:
        while True:
            try:
                with address_of(path) as address:
                    connection.connect(address)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                await asyncio.sleep(min(pause, left))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                return connection
    except BaseException:  # also cancellation: nobody else knows the socket
        connection.close()
        raise


def listen_unix(path: str, *, mode: int, backlog: int = 1024) -> socket.socket:
    """Listen at `path`, replacing a socket that nobody listens on any more; the result is non-blocking.

    Args:
        path: where; its folder must exist.
        mode: who may connect, for example 0o666.
        backlog: connections that may wait to be accepted.

    Raises:
        OSError: the folder cannot be opened, the path is taken by something that is no socket (EEXIST) or by a live
            server (EADDRINUSE), or the folder is not writable.
    """
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Two that start together must not both find the path free: whoever comes second finds the first one listening.
        fcntl.flock(folder, fcntl.LOCK_EX)
        _require_free(path)
        return _bind(path, folder, mode, backlog)
    finally:
        os.close(folder)


def _require_free(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe, address_of(path) as address:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its backlog is full, so somebody listens
    raise OSError(errno.EADDRINUSE, "a live server listens there already; stop it first")


def _bind(path: str, folder: int, mode: int, backlog: int) -> socket.socket:
    temporary = f".{os.urandom(8).hex()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with address_of(path, beside=temporary) as address:
            listener.bind(address)
            os.chmod(address, mode)
        listener.listen(backlog)
        os.rename(temporary, os.path.basename(path), src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        listener.close()
        with contextlib.suppress(FileNotFoundError):  # if the bind itself failed
            os.unlink(temporary, dir_fd=folder)
        raise
    return listener
