"""The file a Unix socket listens at, when it stops."""

from __future__ import annotations

import contextlib
import os

__all__ = ["remove_socket_file"]


def remove_socket_file(path: str | os.PathLike[str], bound: os.stat_result) -> None:
    """Remove the socket at `path` if it still is the one that was `bound`, and not another server's that took its place.

    Call it before the socket is closed: while it can be found it must also answer, and nobody else can have its inode.

    Args:
        path: where it was bound.
        bound: its `lstat` right after that.

    Raises:
        OSError: it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), bound):
            os.unlink(path)
