"""Listen on a service's socket so that the node's agent can connect.

The socket appears at its path atomically and ready: it is bound under another name, made connectable, set listening, and then
renamed. So an agent never meets a socket that refuses or forbids, and a server that replaces a dead one leaves no gap.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat

from meshless_sdk.errors import InvalidServiceId, ListenError
from meshless_sdk.paths import address_of, server_socket_path
from meshless_sdk.wire import is_service_name

__all__ = ["Listener", "listen"]

_MODE = 0o666
"""The agent runs as another user, and connecting needs write permission. Who may reach the folder is the pod's business."""


def listen(service: str, *, backlog: int = 1024, path: str | None = None) -> socket.socket:
    """Listen for connections to a service of this pod.

    A socket file that a dead server left behind is replaced. One that somebody listens on is not, nor is a file that is no
    socket. Closing the returned socket leaves the file behind, like for any Unix socket; the next `listen` replaces it.

    Args:
        service: name of the service, as in the Meshlet.
        backlog: connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
        path: where to listen; `$MESHLESS_DIR/server/<service>`, or `/meshlet/server/<service>` without that variable, if None.

    Returns:
        A listening, blocking stream socket, mode 0666.

    Raises:
        InvalidServiceId: `service` is not a DNS label.
        ListenError: somebody listens there already, or the folder is missing or not writable.
    """
    if not is_service_name(service):
        raise InvalidServiceId(f"{service[:256]!r} is not a service name: write a lower-case DNS label, as in the Meshlet")
    where = os.path.abspath(server_socket_path(service) if path is None else path)
    try:
        folder = os.open(os.path.dirname(where), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        hint = "check that this pod belongs to a mesh, or set MESHLESS_DIR"
        raise ListenError(
            f"cannot listen at {where}: cannot open its folder: {error.strerror}; {hint}", error.errno or 0
        ) from error
    try:
        # Two servers that start together must not both find the path free: whoever comes second finds the first one listening.
        fcntl.flock(folder, fcntl.LOCK_EX)
        _require_free(where)
        return _bind(where, folder, backlog)
    except OSError as error:
        if isinstance(error, ListenError):
            raise
        raise ListenError(f"cannot listen at {where}: {error.strerror or error}", error.errno or 0) from error
    finally:
        os.close(folder)


class Listener:
    """A listening socket that can be withdrawn without losing a connection; what the servers of this package stand on.

    Attributes:
        socket: as `listen` returns it.
    """

    __slots__ = ("_file", "_path", "socket")

    def __init__(self, service: str, *, backlog: int = 1024, path: str | None = None) -> None:
        """Listen; see `listen`."""
        self.socket = listen(service, backlog=backlog, path=path)
        self._path = os.path.abspath(server_socket_path(service) if path is None else path)
        self._file = _identity_of(self._path)

    def withdraw(self) -> None:
        """Remove the socket file, unless another server has replaced it: nobody can connect from now on.

        What waits in the backlog is still there to accept. Closing at once instead would reset it.
        """
        with contextlib.suppress(OSError):  # a folder that went away took the file with it
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)  # as `listen` does: not while another replaces it
                if _identity_of(self._path) == self._file:
                    os.unlink(self._path)
            finally:
                os.close(folder)


def _identity_of(path: str) -> tuple[int, int]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _require_free(path: str) -> None:
    """Raise unless nothing is at `path`, or a socket that nobody listens on."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen at {path}: there is a file that is no socket; remove it", errno.EEXIST)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe, address_of(path) as address:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its backlog is full, so somebody listens
    raise ListenError(f"cannot listen at {path}: a live server listens there already; stop it first", errno.EADDRINUSE)


def _bind(path: str, folder: int, backlog: int) -> socket.socket:
    name = os.path.basename(path)
    temporary = f".{os.urandom(8).hex()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.settimeout(None)  # the application may have set another default
        with address_of(path, beside=temporary) as address:
            listener.bind(address)
            os.chmod(address, _MODE)
        listener.listen(backlog)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        listener.close()
        with contextlib.suppress(FileNotFoundError):  # if the bind itself failed
            os.unlink(temporary, dir_fd=folder)
        raise
    return listener
