"""The Unix socket between an agent and the issuer: binding and reaching it at any path length.

Why: `sun_path` ends at 107 bytes, run directories do not. This module must not know what is said over the socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from meshless_core.errors import IdentityError

__all__ = ["bind_issuer_socket", "short_path"]


def bind_issuer_socket(path: str | os.PathLike[str]) -> socket.socket:
    """Listen at `path` with mode 0600, replacing a socket left behind there.

    Whoever can connect *is* the node the socket was made for, so the directory should be the node's own (0700).

    Raises:
        IdentityError: the path is taken by something else, or not writable.
    """
    full = os.fspath(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with short_path(full) as short:
            temporary = f"{short}.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            listener.bind(temporary)
            os.chmod(temporary, 0o600)
            listener.listen(64)
            os.rename(temporary, short)
    except OSError as error:
        listener.close()
        raise IdentityError(f"cannot listen for leaf requests at {full}: {error.strerror}; check the directory") from error
    return listener


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """A name for `path` short enough for `sun_path`, usable inside the block: it goes through an open directory.

    Raises:
        OSError: the directory of `path` cannot be opened.
    """
    directory, name = os.path.split(os.path.abspath(path))
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
