"""Where a pod's sockets are, and how to reach a path that is too long for a Unix socket address.

The folder is `$MESHLESS_DIR`, `/meshlet` if that is not set: `client/meshless` is the agent's socket, `server/<service>` the
application's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["address_of", "client_socket_path", "server_socket_path"]

_MAX_ADDRESS_BYTES = 107
"""`sun_path` has 108 bytes, one of them for the terminating zero (unix(7))."""


def client_socket_path() -> str:
    """The agent's socket in this pod."""
    return os.path.join(_pod_dir(), "client", "meshless")


def server_socket_path(service: str) -> str:
    """Where this pod's server of `service` listens."""
    return os.path.join(_pod_dir(), "server", service)


@contextmanager
def address_of(path: str, beside: str = "") -> Iterator[str]:
    """An address for `bind` or `connect` that means `path`, of whatever length; valid inside the block.

    Args:
        path: path of a socket.
        beside: another name in the same folder that is meant instead of the last part of `path`.

    Raises:
        OSError: `path` is too long for an address, and its folder cannot be opened.
    """
    folder, name = os.path.split(os.path.abspath(path))
    name = beside or name
    whole = os.path.join(folder, name)
    if len(os.fsencode(whole)) <= _MAX_ADDRESS_BYTES:
        yield whole
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _pod_dir() -> str:
    return os.environ.get("MESHLESS_DIR") or "/meshlet"
