"""Connects to an application's socket in a pod's server folder, trusting nothing the pod made.

The name is opened with `O_PATH | O_NOFOLLOW` relative to the folder's descriptor, must be a socket, and is connected through
`/proc/self/fd`, so a symlink is never followed, nothing can be swapped between check and use, and paths may be longer than the
107 bytes of `sun_path`. A descriptor that is kept pins its inode, so an equal inode number means the same file.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from meshless_core.errors import MeshlessError

__all__ = ["ServiceSocketError", "ServiceSockets"]

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Failures that say something about this agent, not about what the pod made."""
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


class ServiceSockets:
    """The application's sockets in one pod's server folder.

    The descriptor of each socket file is kept, so that the next connect needs one look (is it still this file?) instead of an
    open, a check and a close. The names asked for are those of declared services, so what is kept is bounded.

    Args:
        server_folder: descriptor (O_PATH) of the pod's server folder; stays the caller's.
    """

    def __init__(self, server_folder: int) -> None:
        self._folder = server_folder
        self._known: dict[str, tuple[int, str, int, int]] = {}

    def has(self, service: str) -> bool:
        """Whether there is a socket `server/<service>`; says nothing about who listens. Never follows what the pod made."""
        try:
            return stat.S_ISSOCK(os.stat(service, dir_fd=self._folder, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def connect(self, service: str) -> socket.socket | None:
        """Connect to `server/<service>`.

        Args:
            service: the service's name, a DNS label.

        Returns:
            The connected, non-blocking socket; None if the application's backlog is full now (try again shortly).

        Raises:
            ServiceSocketError: what stands in the way.
            OSError: no descriptor or no memory is left.
        """
        name = f"server/{service}"
        try:
            status = os.stat(service, dir_fd=self._folder, follow_symlinks=False)
        except OSError as error:
            self._forget(service)
            if error.errno in _OURS:
                raise
            raise ServiceSocketError(self._why_not_there(name, error)) from error
        known = self._known.get(service)
        if known is None or (known[2], known[3]) != (status.st_ino, status.st_dev):
            self._forget(service)
            known = self._open(service, name)
        connection = socket.socket(socket.AF_UNIX, _SOCKET_FLAGS)
        try:
            connection.connect(known[1])
        except BlockingIOError:
            connection.close()
            return None
        except OSError as error:
            connection.close()
            if error.errno in _OURS:
                raise
            raise ServiceSocketError(_why(name, status.st_mode, error)) from error
        return connection

    def close(self) -> None:
        """Close what is kept."""
        for service in list(self._known):
            self._forget(service)

    def _open(self, service: str, name: str) -> tuple[int, str, int, int]:
        try:
            descriptor = os.open(service, _OPEN_FLAGS, dir_fd=self._folder)
        except OSError as error:
            if error.errno in _OURS:
                raise
            raise ServiceSocketError(self._why_not_there(name, error)) from error
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode):
            os.close(descriptor)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no socket")
            raise ServiceSocketError(f"{name} is {kind}: the application has to listen on a Unix socket there")
        known = (descriptor, f"/proc/self/fd/{descriptor}", status.st_ino, status.st_dev)
        self._known[service] = known
        return known

    def _why_not_there(self, name: str, error: OSError) -> str:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                return f"{name} does not exist: the application has to listen there"
            case errno.EACCES | errno.EPERM:
                mode = stat.S_IMODE(os.fstat(self._folder).st_mode)
                return (
                    f"the folder of {name} has mode {mode:04o}, which does not let the agent (uid {os.geteuid()}) "
                    "look into it: set mode 0755 on the folder"
                )
            case _:
                return f"{name} cannot be looked at: {error.strerror}"

    def _forget(self, service: str) -> None:
        known = self._known.pop(service, None)
        if known is not None:
            os.close(known[0])


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
