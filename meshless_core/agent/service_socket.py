"""Connects to an application's socket in a pod's server folder, trusting nothing the pod made.

The name is opened with `O_PATH | O_NOFOLLOW` relative to the folder's descriptor, must be a socket, and is connected through
`/proc/self/fd`, so a symlink is never followed, nothing can be swapped between check and use, and paths may be longer than the
107 bytes of `sun_path`.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from meshless_core.errors import MeshlessError

__all__ = ["ServiceSocketError", "connect_service"]

_SOCKET_FLAGS = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_OPEN_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symlink, which is never followed",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a regular file",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class ServiceSocketError(MeshlessError):
    """The application's socket is missing or refuses; the text says exactly why and what to do."""


def connect_service(server_folder: int, service: str) -> socket.socket | None:
    """Connect to `<server folder>/<service>`.

    Args:
        server_folder: descriptor (O_PATH) of the pod's server folder.
        service: the service's name, a DNS label.

    Returns:
        The connected, non-blocking socket; None if the application's backlog is full now (try again shortly).

    Raises:
        ServiceSocketError: what stands in the way.
    """
    name = f"server/{service}"
    try:
        descriptor = os.open(service, _OPEN_FLAGS, dir_fd=server_folder)
    except FileNotFoundError as error:
        raise ServiceSocketError(f"{name} does not exist: the application has to listen there") from error
    except OSError as error:
        raise ServiceSocketError(f"{name} cannot be opened: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISSOCK(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no socket")
            raise ServiceSocketError(f"{name} is {kind}: the application has to listen on a Unix socket there")
        connection = socket.socket(socket.AF_UNIX, _SOCKET_FLAGS)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}")
        except BlockingIOError:
            connection.close()
            return None
        except OSError as error:
            connection.close()
            raise ServiceSocketError(_why(name, mode, error)) from error
    finally:
        os.close(descriptor)
    return connection


def _why(name: str, mode: int, error: OSError) -> str:
    match error.errno:
        case errno.ECONNREFUSED:
            return f"{name} refuses: nobody listens on it; a dead process may have left it behind"
        case errno.EACCES | errno.EPERM:
            return (
                f"{name} has mode {stat.S_IMODE(mode):04o}, which does not let the agent (uid {os.geteuid()}) write: "
                "set mode 0666 on the socket"
            )
        case errno.EPROTOTYPE:
            return f"{name} is a datagram or packet socket: the application has to listen on a stream socket"
        case _:
            return f"{name} refuses: {error.strerror}"
